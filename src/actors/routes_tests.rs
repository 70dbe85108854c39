//! Feeds: what of a response's events arrives, in every order of what may happen to it.

use tokio::sync::mpsc::error::TryRecvError;

use super::*;
use crate::actors::messages::KeyId;
use crate::actors::registry::{Registry, Ticket};
use crate::batch::TokenId;
use crate::clock::Clock;

const REQUEST: SeqId = SeqId(7);
const SECOND: SeqId = SeqId(9);

/// What may happen to a response of two choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happening {
    /// The second choice enters the queue.
    Enters,
    /// A token of a choice.
    Token(u32),
    /// The end of a choice.
    Finished(u32),
    /// Its stream ends a choice.
    ChoiceClosed(u32),
    /// It is cancelled by its id.
    EndedById,
    /// Its stream leaves.
    Closed,
    /// What was noted is sent.
    Flush,
}

const HAPPENINGS: [Happening; 10] = [
    Happening::Enters,
    Happening::Token(0),
    Happening::Token(1),
    Happening::Finished(0),
    Happening::Finished(1),
    Happening::ChoiceClosed(0),
    Happening::ChoiceClosed(1),
    Happening::EndedById,
    Happening::Closed,
    Happening::Flush,
];

fn seq(choice: u32) -> SeqId {
    if choice == 0 { REQUEST } else { SECOND }
}

fn token(choice: u32, token: u32) -> SequenceEvent {
    SequenceEvent::Token { seq: seq(choice), token: TokenId(token), logprobs: None }
}

fn finished(choice: u32) -> SequenceEvent {
    SequenceEvent::Finished { seq: seq(choice), reason: FinishReason::Length, logprobs: None }
}

/// The response as it must be, told by what happened to it alone.
#[derive(Debug)]
struct Told {
    entered: bool,
    /// How each choice ended: for its stream too, which is told so, or at its stream's wish.
    ended: [Option<bool>; 2],
    /// What must arrive of each choice: its tokens, and `None` for its end.
    events: [Vec<Option<u32>>; 2],
    closed: bool,
}

impl Told {
    fn has_ended(&self) -> bool {
        self.ended.iter().all(Option::is_some)
    }

    fn is_live(&self, choice: u32) -> bool {
        !self.closed && self.ended[choice as usize].is_none() && (choice == 0 || self.entered)
    }
}

struct Response {
    routes: Routes,
    inbox: mpsc::Receiver<Feed>,
    told: Told,
    registry: Arc<Registry>,
    /// Keeps it in the registry.
    _ticket: Ticket,
}

impl Response {
    fn open(feed_max_count: usize) -> Self {
        let registry = Arc::new(Registry::new(Clock::start()));
        let ticket = registry.enter("a".to_owned(), KeyId::default(), None).unwrap();
        let (feed, inbox) = mpsc::channel(feed_max_count);
        let mut routes = Routes::default();
        routes.open(ticket.live(), REQUEST, 2, feed);
        let told = Told { entered: false, ended: [None; 2], events: Default::default(), closed: false };
        Self { routes, inbox, told, registry, _ticket: ticket }
    }

    fn happens(&mut self, happening: Happening, number: u32) {
        let (routes, told) = (&mut self.routes, &mut self.told);
        match happening {
            Happening::Enters => {
                routes.note(SequenceEvent::Entered { request: REQUEST, index: 1, seq: SECOND });
                told.entered = true;
            }
            Happening::Token(choice) => {
                routes.note(token(choice, number));
                if told.is_live(choice) {
                    told.events[choice as usize].push(Some(number));
                }
            }
            Happening::Finished(choice) => {
                routes.note(finished(choice));
                if told.is_live(choice) {
                    told.ended[choice as usize] = Some(true);
                    told.events[choice as usize].push(None);
                }
            }
            Happening::ChoiceClosed(choice) => {
                let was_live = told.is_live(choice);
                assert_eq!(routes.close_choice(ResponseId(0), choice), was_live.then_some(seq(choice)));
                if was_live {
                    told.ended[choice as usize] = Some(false);
                }
            }
            Happening::EndedById => {
                let had_ended = told.closed || told.has_ended();
                assert_eq!(routes.end(ResponseId(0), &CANCELLED), (!had_ended).then_some(REQUEST));
                for choice in 0..2 {
                    if !told.closed && told.ended[choice].is_none() {
                        told.ended[choice] = Some(true);
                        told.events[choice].push(None);
                    }
                }
            }
            Happening::Closed => {
                let had_ended = told.closed || told.has_ended();
                assert_eq!(routes.close(ResponseId(0)), (!had_ended).then_some(REQUEST));
                told.closed = true;
            }
            Happening::Flush => assert_eq!(routes.flush(), [], "its stream takes everything"),
        }
    }

    /// What arrived of each choice so far, and whether more may come.
    fn arrived(&mut self) -> ([Vec<Option<u32>>; 2], bool) {
        let mut arrived: [Vec<Option<u32>>; 2] = Default::default();
        loop {
            match self.inbox.try_recv() {
                Ok(Feed(events)) => {
                    for ChoiceEvent { choice, kind } in events {
                        arrived[choice as usize].push(match kind {
                            ChoiceEventKind::Token { token, .. } => Some(token.0),
                            ChoiceEventKind::Ended { .. } => None,
                            ChoiceEventKind::Began(_) | ChoiceEventKind::Prompt(_) => panic!("none was noted"),
                        });
                    }
                }
                Err(error) => return (arrived, error == TryRecvError::Empty),
            }
        }
    }

    fn check(&mut self) {
        self.happens(Happening::Flush, 0);
        let (arrived, goes_on) = self.arrived();
        let told = &self.told;
        for (arrived, told_events) in arrived.iter().zip(&told.events) {
            if told.closed {
                // What was on its way when its stream left is lost with it.
                assert!(told_events.starts_with(arrived), "{arrived:?}");
            } else {
                assert_eq!(arrived, told_events);
            }
        }
        assert_eq!(goes_on, !told.closed && !told.has_ended(), "its stream is let go when nothing more comes, and not before");
        let live: Vec<SeqId> = (0..2).filter(|choice| told.is_live(*choice)).map(seq).collect();
        let mut known: Vec<SeqId> = self.routes.sequences.keys().copied().collect();
        known.sort_unstable();
        assert_eq!(known, live, "a sequence is either known or ended");
        assert_eq!((self.routes.responses.len(), self.routes.requests.len()), (usize::from(goes_on), usize::from(goes_on)));
    }
}

/// Every order of five of ten happenings, each order checked after its last.
#[test]
fn whatever_happens_to_a_response_each_event_arrives_once_and_in_order() {
    let count = HAPPENINGS.len();
    for order in 0..count.pow(5) {
        let order: Vec<Happening> = (0..5).map(|at| HAPPENINGS[order / count.pow(at) % count]).collect();
        // The core says nothing of a sequence before it enters, and has it enter once, unless its
        // request is cancelled.
        let position = |wanted| order.iter().position(|happening| *happening == wanted);
        let (enters, cancelled) = (position(Happening::Enters), position(Happening::EndedById));
        let is_early = |(at, happening): (usize, &Happening)| match happening {
            Happening::Token(1) | Happening::Finished(1) => enters.is_none_or(|enters| at < enters),
            Happening::Enters => enters != Some(at) || cancelled.is_some_and(|cancelled| cancelled < at),
            _ => false,
        };
        if order.iter().enumerate().any(is_early) {
            continue;
        }
        let mut response = Response::open(8);
        let lived = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for (number, happening) in (0..).zip(&order) {
                response.happens(*happening, number);
            }
            response.check();
        }));
        assert!(lived.is_ok(), "order {order:?}");
    }
}

#[test]
fn a_full_feed_gives_its_response_up_and_no_event_is_left_out_in_silence() {
    let mut response = Response::open(2);
    let mut orphans = Vec::new();
    for number in 0..3 {
        response.routes.note(token(0, number));
        orphans.push(response.routes.flush());
    }
    assert_eq!(orphans, [vec![], vec![], vec![REQUEST]], "the core is told to free it");
    // Its stream sees the end of the feed behind what it got, without an end of the choice: a
    // failure.
    assert_eq!(response.arrived(), ([vec![Some(0), Some(1)], vec![]], false));
    response.routes.note(token(0, 3));
    assert_eq!(response.routes.flush(), []);
    assert_eq!(response.routes.close(ResponseId(0)), None);
}

#[test]
fn the_end_of_a_response_whose_feed_is_full_frees_nothing_that_is_free() {
    let mut response = Response::open(1);
    response.routes.note(SequenceEvent::Entered { request: REQUEST, index: 1, seq: SECOND });
    response.routes.note(finished(0));
    assert_eq!(response.routes.flush(), []);
    response.routes.note(finished(1));
    assert_eq!(response.routes.flush(), [], "both sequences have ended in the core");
    assert_eq!(response.arrived(), ([vec![None], vec![]], false));
}

#[test]
fn a_stream_that_is_gone_orphans_its_request_and_no_other() {
    let mut gone = Response::open(2);
    let other = gone.registry.enter("b".to_owned(), KeyId::default(), None).unwrap();
    let (feed, mut inbox) = mpsc::channel(2);
    gone.routes.open(other.live(), SeqId(20), 1, feed);
    gone.inbox.close();
    gone.routes.note(token(0, 1));
    gone.routes.note(SequenceEvent::Token { seq: SeqId(20), token: TokenId(1), logprobs: None });
    assert_eq!(gone.routes.flush(), [REQUEST]);
    assert_eq!(gone.routes.sequences.keys().collect::<Vec<_>>(), [&SeqId(20)]);
    assert_eq!(inbox.try_recv().unwrap().0.len(), 1);
}
