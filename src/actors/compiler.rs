//! Compiles grammars on a thread of their own, one at a time.
//!
//! Promises: a request waits for its grammar no longer than [`COMPILE_MAX`] for a turn and as long
//! for the compiler. While one that took longer goes on, others are refused at once, so that
//! requests without a form never wait behind it. The compiler's recursion has [`STACK_BYTES`].
//! Absent on purpose: what is wrong with a form.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use crate::actors::guard::guarded;
use crate::prompt::constraint::{Grammar, GrammarError, Grammars, STACK_BYTES};
use crate::prompt::conversation::AnswerForm;

/// 20 ms is what the largest schemas in use take; a debug build on a busy machine takes fifty times
/// that.
const COMPILE_MAX: Duration = Duration::from_secs(2);

/// Why there is no grammar.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CompileError {
    /// The form cannot be kept.
    Form(GrammarError),
    /// A form of another request is being compiled, and takes long.
    Busy,
}

/// What the thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum CompilerState {
    /// Nothing.
    #[default]
    Free,
    /// It compiles, and a request waits for it.
    Taken,
    /// It compiles, and the request has given up.
    Overdue,
}

/// Grammars, and the one turn to compile them.
#[derive(Debug)]
pub(super) struct Compiler {
    grammars: Arc<Grammars>,
    state: Mutex<CompilerState>,
    freed: Condvar,
}

impl Compiler {
    /// A compiler that does nothing yet.
    pub(super) fn new(grammars: Arc<Grammars>) -> Self {
        Self { grammars, state: Mutex::default(), freed: Condvar::new() }
    }

    /// Where its grammars are kept.
    pub(super) fn grammars(&self) -> &Arc<Grammars> {
        &self.grammars
    }

    /// The grammar of `form`, kept or compiled.
    ///
    /// # Errors
    /// [`CompileError`].
    pub(super) fn compile(self: &Arc<Self>, form: &AnswerForm) -> Result<Arc<Grammar>, CompileError> {
        if let Some(kept) = self.grammars.kept(form) {
            return Ok(kept);
        }
        self.run(COMPILE_MAX, {
            let (grammars, form) = (Arc::clone(&self.grammars), form.clone());
            move || grammars.compile(&form)
        })
    }

    fn run(
        self: &Arc<Self>,
        max: Duration,
        work: impl FnOnce() -> Result<Arc<Grammar>, GrammarError> + Send + 'static,
    ) -> Result<Arc<Grammar>, CompileError> {
        self.take_turn(max)?;
        let (sender, done) = mpsc::sync_channel(1);
        let compiler = Arc::clone(self);
        let thread = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
        let started = thread.spawn(move || {
            let compiled =
                guarded(work).unwrap_or_else(|message| Err(GrammarError::of_all(format!("cannot be compiled: {message}"))));
            // Before the result is told: the next request of the same client finds the turn free.
            compiler.set(CompilerState::Free);
            let _ = sender.send(compiled);
        });
        if started.is_err() {
            self.set(CompilerState::Free);
            return Err(CompileError::Busy);
        }
        let compiled = done.recv_timeout(max).unwrap_or_else(|_| {
            let mut state = self.locked();
            if *state == CompilerState::Taken {
                *state = CompilerState::Overdue;
            }
            Err(GrammarError::of_all(format!("takes longer than {} s to compile", max.as_secs_f64())))
        });
        compiled.map_err(CompileError::Form)
    }

    fn take_turn(&self, max: Duration) -> Result<(), CompileError> {
        let waited = self.freed.wait_timeout_while(self.locked(), max, |state| *state == CompilerState::Taken);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *state != CompilerState::Free {
            return Err(CompileError::Busy);
        }
        *state = CompilerState::Taken;
        Ok(())
    }

    fn set(&self, state: CompilerState) {
        *self.locked() = state;
        self.freed.notify_all();
    }

    fn locked(&self) -> MutexGuard<'_, CompilerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::actors::fixtures::tokenizer;
    use crate::prompt::constraint::AnswerRules;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    fn compiler() -> Arc<Compiler> {
        Arc::new(Compiler::new(Arc::new(Grammars::new(tokenizer()))))
    }

    #[test]
    fn while_a_form_takes_long_others_are_refused_at_once_and_kept_ones_are_taken() {
        let compiler = compiler();
        let known = compiler.compile(&AnswerForm::object()).unwrap();
        let (goes_on, waits) = mpsc::channel::<()>();
        let late = compiler.run(SHORT, move || {
            let _ = waits.recv();
            Err(GrammarError::of_all("is late".to_owned()))
        });
        let message = "takes longer than 0.02 s to compile".to_owned();
        assert_eq!(late.unwrap_err(), CompileError::Form(GrammarError::of_all(message)));
        // In this state a request does not wait for its turn.
        assert_eq!(*compiler.locked(), CompilerState::Overdue);
        assert_eq!(compiler.run(LONG, || panic!("not begun")).unwrap_err(), CompileError::Busy);
        assert!(Arc::ptr_eq(&compiler.compile(&AnswerForm::object()).unwrap(), &known));
        drop(goes_on);
        let freed = compiler.freed.wait_timeout_while(compiler.locked(), LONG, |state| *state != CompilerState::Free);
        assert!(!freed.unwrap().1.timed_out());
        assert!(compiler.compile(&AnswerForm::Regex("a+".to_owned())).is_ok(), "the turn is free again");
    }

    #[test]
    fn a_compiler_that_panics_fails_its_form_alone() {
        let compiler = compiler();
        let error = compiler.run(LONG, || panic!("of no use")).unwrap_err();
        assert_eq!(error, CompileError::Form(GrammarError::of_all("cannot be compiled: of no use".to_owned())));
        assert!(compiler.compile(&AnswerForm::object()).is_ok());
    }

    /// A chain of references as long as a schema may have values, and `of` more in each link.
    fn chain(values_each: usize, of: fn(Value) -> Value) -> AnswerForm {
        let count = 19_990 / (values_each + 1);
        let link = |at: usize| (format!("d{at}"), of(json!({"$ref": format!("#/$defs/d{}", at + 1)})));
        let mut definitions: Map<String, Value> = (0..count).map(link).collect();
        definitions.insert(format!("d{count}"), json!({"type": "null"}));
        AnswerForm::Json(json!({"$ref": "#/$defs/d0", "$defs": definitions}))
    }

    /// A chain of rules as long as a grammar may have bytes.
    fn rules(of: fn(usize) -> String) -> AnswerForm {
        let mut text = "start: r0\n".to_owned();
        let rules = (0..).map(of).take_while(|rule| {
            let fits = text.len() + rule.len() < (64 << 10) - 20;
            text.push_str(if fits { rule } else { "" });
            fits
        });
        let count = rules.count();
        AnswerForm::Grammar(format!("{text}r{count}: \"b\"\n"))
    }

    /// As deep as the bounds of schemas and grammars let through. Each ended the process when the
    /// compiler had a thread's usual 2 MiB, and a matcher has to do with that.
    #[test]
    fn the_compiler_recurses_as_deep_as_the_bounds_let_it() {
        let compiler = compiler();
        let flat: Map<String, Value> = (0..19_000).map(|at| (format!("p{at}"), json!(true))).collect();
        let forms = [
            chain(5, |next| json!({"anyOf": [next, {"type": "null"}]})),
            chain(3, |next| json!({"items": next})),
            chain(3, |next| json!({"allOf": [next]})),
            chain(4, |next| json!({"properties": {"p": next}})),
            AnswerForm::Json(json!({"type": "object", "properties": flat})),
            rules(|at| format!("r{at}: \"a\" r{}\n", at + 1)),
            rules(|at| format!("r{at}: r{}\n", at + 1)),
        ];
        for form in forms {
            let grammars = Arc::clone(compiler.grammars());
            // Whether it is taken is the compiler's budget; that it comes back is what is tested.
            let compiled = compiler.run(LONG, move || grammars.compile(&form));
            assert_ne!(compiled.as_ref().err(), Some(&CompileError::Busy));
            if let Ok(grammar) = compiled {
                let _ = Arc::new(AnswerRules::of_text(compiler.grammars(), grammar)).begin().allowed();
            }
        }
    }
}
