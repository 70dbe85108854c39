//! Compiles grammars on a thread of their own, one at a time.
//!
//! Promises: a request waits for its grammar no longer than [`COMPILE_MAX`] for a turn and as long
//! for the compiler; while one that took longer goes on, others are refused at once, so that
//! requests without a form never wait behind it. The compiler's recursion has [`STACK_BYTES`].
//! Absent on purpose: what is wrong with a form.

use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
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

/// The one turn to compile.
#[derive(Debug, Default)]
pub(super) struct Compiling {
    turn: Mutex<CompilerState>,
    freed: Condvar,
}

impl Compiling {
    /// The grammar of `form`, kept or compiled.
    ///
    /// # Errors
    /// [`CompileError`].
    pub(super) fn compile(self: &Arc<Self>, grammars: &Arc<Grammars>, form: &AnswerForm) -> Result<Arc<Grammar>, CompileError> {
        if let Some(kept) = grammars.kept(form) {
            return Ok(kept);
        }
        self.run(COMPILE_MAX, {
            let (grammars, form) = (Arc::clone(grammars), form.clone());
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
        let compiling = Arc::clone(self);
        let thread = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
        let started = thread.spawn(move || {
            let compiled = guarded(work).unwrap_or_else(|message| Err(failed(format!("cannot be compiled: {message}"))));
            // Before the result is told: the next request of the same client finds the turn free.
            compiling.set(CompilerState::Free);
            let _ = sender.send(compiled);
        });
        if started.is_err() {
            self.set(CompilerState::Free);
            return Err(CompileError::Busy);
        }
        done.recv_timeout(max).map_or_else(
            |_| {
                let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
                if *turn == CompilerState::Taken {
                    *turn = CompilerState::Overdue;
                }
                Err(CompileError::Form(failed(format!("takes longer than {} s to compile", max.as_secs_f64()))))
            },
            |compiled| compiled.map_err(CompileError::Form),
        )
    }

    fn take_turn(&self, max: Duration) -> Result<(), CompileError> {
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.freed.wait_timeout_while(turn, max, |turn| *turn == CompilerState::Taken);
        let (mut turn, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if *turn != CompilerState::Free {
            return Err(CompileError::Busy);
        }
        *turn = CompilerState::Taken;
        Ok(())
    }

    fn set(&self, turn: CompilerState) {
        *self.turn.lock().unwrap_or_else(PoisonError::into_inner) = turn;
        self.freed.notify_all();
    }
}

fn failed(message: String) -> GrammarError {
    GrammarError { path: String::new(), message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::fixtures::tokenizer;

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(20);

    fn kept() -> (Arc<Compiling>, Arc<Grammars>) {
        (Arc::default(), Arc::new(Grammars::new(tokenizer())))
    }

    #[test]
    fn while_a_form_takes_long_others_are_refused_at_once_and_kept_ones_are_taken() {
        let (compiling, grammars) = kept();
        let known = compiling.compile(&grammars, &AnswerForm::object()).unwrap();
        let (goes_on, waits) = mpsc::channel::<()>();
        let late = compiling.run(SHORT, move || {
            let _ = waits.recv();
            Err(failed("is late".to_owned()))
        });
        assert_eq!(late.unwrap_err(), CompileError::Form(failed("takes longer than 0.02 s to compile".to_owned())));
        // A wait of a minute would show.
        assert_eq!(compiling.run(LONG, || panic!("not begun")).unwrap_err(), CompileError::Busy);
        assert!(Arc::ptr_eq(&compiling.compile(&grammars, &AnswerForm::object()).unwrap(), &known));
        drop(goes_on);
        let turn = compiling.turn.lock().unwrap();
        let (turn, waited) = compiling.freed.wait_timeout_while(turn, LONG, |turn| *turn != CompilerState::Free).unwrap();
        assert!(!waited.timed_out());
        drop(turn);
        assert!(compiling.compile(&grammars, &AnswerForm::Regex("a+".to_owned())).is_ok(), "the turn is free again");
    }

    #[test]
    fn a_compiler_that_panics_fails_its_form_alone() {
        let (compiling, grammars) = kept();
        let error = compiling.run(LONG, || panic!("of no use")).unwrap_err();
        assert_eq!(error, CompileError::Form(failed("cannot be compiled: of no use".to_owned())));
        assert!(compiling.compile(&grammars, &AnswerForm::object()).is_ok());
    }

    /// The deepest that the bounds of schemas and grammars let through, each of which ended the
    /// process when the compiler had a thread's usual 2 MiB.
    #[test]
    fn the_compiler_recurses_as_deep_as_the_bounds_let_it() {
        use serde_json::{Map, Value, json};
        let (compiling, grammars) = kept();
        let chain = |of: fn(Value) -> Value| {
            let count = 2_000;
            let mut definitions: Map<String, Value> =
                (0..count).map(|at| (format!("d{at}"), of(json!({"$ref": format!("#/$defs/d{}", at + 1)})))).collect();
            definitions.insert(format!("d{count}"), json!({"type": "null"}));
            AnswerForm::Json(json!({"$ref": "#/$defs/d0", "$defs": definitions}))
        };
        let flat: Map<String, Value> = (0..9_000).map(|at| (format!("p{at}"), json!({}))).collect();
        let rules = |next: &str| (0..3_000).map(|at| format!("r{at}: {next}r{}\n", at + 1)).collect::<String>();
        let forms = [
            chain(|next| json!({"anyOf": [next, {"type": "null"}]})),
            chain(|next| json!({"type": "array", "items": next})),
            chain(|next| json!({"type": "object", "properties": {"p": next}})),
            AnswerForm::Json(json!({"type": "object", "properties": flat})),
            AnswerForm::Grammar(format!("start: r0\n{}r3000: \"b\"\n", rules("\"a\" "))),
            AnswerForm::Grammar(format!("start: r0\n{}r3000: \"b\"\n", rules(""))),
        ];
        for form in forms {
            // Whether it is taken is the compiler's budget; that it comes back is what is tested.
            let work = {
                let (grammars, form) = (Arc::clone(&grammars), form.clone());
                move || grammars.compile(&form)
            };
            assert_ne!(compiling.run(LONG, work).err(), Some(CompileError::Busy));
        }
    }
}
