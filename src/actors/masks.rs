//! Threads that find out which tokens a sequence may draw, while the engine computes.
//!
//! Owns: the answers of the sequences that are held to a form. Promises: the mask of a draw is
//! begun when the draw before it is told, once, and kept until the next one is told. So a step that
//! is lost, or a sequence that is preempted, finds it again. Whatever a grammar does, its sequence
//! alone fails. No draw waits longer than [`WAIT_MAX`]. Absent on purpose: grammars.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::actors::guard::guarded;
use crate::batch::{Allowed, Masks, TokenId, TokenMasks};
use crate::prompt::constraint::{ConstrainedAnswer, Grammars};

/// A guard against hanging: a mask is bounded by its work, and takes milliseconds.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Processor time that the masks of a sequence may take in all, and more for each of its tokens. A
/// mask of a schema takes 0.1 ms, and 8 ms at the 99th percentile of a debug build. Those of a
/// grammar that can be read in many ways grow with the text, and every other sequence of the batch
/// waits for them.
const CPU_MAX: Duration = Duration::from_millis(250);
const CPU_MAX_EACH: Duration = Duration::from_millis(2);

/// One thread for so many cores: a mask takes less than a step, and on a CPU both want the same
/// cores.
const CORES_A_THREAD: usize = 4;

/// The threads. They end when this and all masks that came of it are dropped.
#[derive(Debug, Clone)]
pub(super) struct MaskThreads {
    jobs: mpsc::Sender<Arc<MaskedSequence>>,
}

impl MaskThreads {
    /// Starts them; the first one prepares `grammars` before anything else.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(super) fn start(grammars: &Arc<Grammars>) -> std::io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (jobs, inbox) = mpsc::channel::<Arc<MaskedSequence>>();
        let inbox = Arc::new(Mutex::new(inbox));
        for index in 0..cores.div_ceil(CORES_A_THREAD) {
            let (inbox, grammars) = (Arc::clone(&inbox), Arc::clone(grammars));
            thread::Builder::new().name("masks".to_owned()).spawn(move || {
                if index == 0 {
                    grammars.warm_up();
                }
                drop(grammars);
                while let Ok(sequence) = { locked(&inbox).recv() } {
                    sequence.work();
                }
            })?;
        }
        Ok(Self { jobs })
    }

    /// The masks of a sequence whose answer begins; the first one is begun at once.
    pub(super) fn masks(&self, answer: ConstrainedAnswer) -> Masks {
        let board = Board { untold: VecDeque::new(), told: 0, known: None, taken: Duration::ZERO };
        let sequence =
            Arc::new(MaskedSequence { answer: Mutex::new(answer), board: Mutex::new(board), changed: Condvar::new() });
        let masks = SequenceMasks { sequence, jobs: self.jobs.clone() };
        masks.begin();
        Masks(Arc::new(masks))
    }
}

/// What is known of a sequence.
#[derive(Debug)]
struct Board {
    /// Tokens that were told and not taken into account, and how many were told in all.
    untold: VecDeque<TokenId>,
    told: u32,
    /// What may follow all that were told.
    known: Option<Allowed>,
    /// Processor time of its masks.
    taken: Duration,
}

#[derive(Debug)]
struct MaskedSequence {
    /// Only one thread works at it at a time.
    answer: Mutex<ConstrainedAnswer>,
    board: Mutex<Board>,
    changed: Condvar,
}

impl MaskedSequence {
    /// Finds out what may follow.
    fn work(&self) {
        let mut answer = locked(&self.answer);
        let (tokens, told) = {
            let mut board = locked(&self.board);
            if board.known.is_some() {
                return;
            }
            (std::mem::take(&mut board.untold), board.told)
        };
        let began = thread_time();
        let found = guarded(|| {
            tokens.into_iter().try_for_each(|token| answer.take(token))?;
            answer.allowed()
        });
        let taken = thread_time().saturating_sub(began);
        let allowed = found.and_then(|allowed| allowed).unwrap_or_else(|message| {
            tracing::warn!(message, "an answer has a dead end");
            Allowed::Nothing
        });
        let mut board = locked(&self.board);
        board.taken += taken;
        let is_costly = board.taken > CPU_MAX + CPU_MAX_EACH * told;
        if is_costly {
            tracing::warn!(taken_ms = board.taken.as_millis(), tokens = told, "a grammar costs too much");
        }
        if board.told == told {
            board.known = Some(if is_costly { Allowed::Nothing } else { allowed });
            self.changed.notify_all();
        }
    }
}

/// The masks of one sequence.
#[derive(Debug)]
struct SequenceMasks {
    sequence: Arc<MaskedSequence>,
    jobs: mpsc::Sender<Arc<MaskedSequence>>,
}

impl SequenceMasks {
    fn begin(&self) {
        if self.jobs.send(Arc::clone(&self.sequence)).is_err() {
            // No thread is left: the sequence fails instead of waiting.
            locked(&self.sequence.board).known = Some(Allowed::Nothing);
        }
    }
}

impl TokenMasks for SequenceMasks {
    fn drawn(&self, index: u32, token: TokenId) {
        {
            let mut board = locked(&self.sequence.board);
            assert_eq!(index, board.told, "each draw is told once, in order");
            board.told += 1;
            board.untold.push_back(token);
            board.known = None;
        }
        self.begin();
    }

    fn allowed(&self, index: u32) -> Allowed {
        let board = locked(&self.sequence.board);
        assert_eq!(index, board.told, "a draw is asked for after those before it are told");
        let (board, _) = self
            .sequence
            .changed
            .wait_timeout_while(board, WAIT_MAX, |board| board.known.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        board.known.clone().unwrap_or_else(|| {
            tracing::error!("no mask came within {} seconds", WAIT_MAX.as_secs());
            Allowed::Nothing
        })
    }
}

/// Processor time of this thread: what it does not get on a busy machine does not count.
fn thread_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// What it guards is whole whenever it is free: a panic in the work is caught inside.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::fixtures::tokenizer;
    use crate::prompt::constraint::AnswerRules;
    use crate::prompt::conversation::AnswerForm;

    #[test]
    fn a_sequence_whose_masks_took_too_long_may_draw_nothing() {
        let grammars = Arc::new(Grammars::new(tokenizer()));
        let grammar = grammars.compile(&AnswerForm::Regex("[0-9]+".to_owned())).unwrap();
        let rules = Arc::new(AnswerRules::of_text(&grammars, grammar));
        for (taken, goes_on) in [(Duration::ZERO, true), (CPU_MAX, false)] {
            let board = Board { untold: VecDeque::new(), told: 0, known: None, taken };
            let sequence =
                MaskedSequence { answer: Mutex::new(rules.begin()), board: Mutex::new(board), changed: Condvar::new() };
            sequence.work();
            let known = locked(&sequence.board).known.clone();
            assert_eq!(known.is_some_and(|allowed| allowed != Allowed::Nothing), goes_on, "{taken:?}");
        }
    }
}
