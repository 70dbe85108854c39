//! The headers that harmony allows in an answer, as a small automaton over bytes and control
//! tokens.
//!
//! Pure: which headers there are follows from the functions that may be called. A text between two
//! control tokens is compared byte by byte, so that the model writes it in whichever tokens it
//! likes. Absent on purpose: grammars, and what stands in a message.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::grammar::Grammars;
use crate::batch::{Allowed, TokenId};
use crate::prompt::tokenizer::ControlTokens;

/// Tables that are kept: those of the tools that clients sent last. One takes 25 KB for each of its
/// masks of gpt-oss's vocabulary, and 80 bytes for each byte of a function's name that no other
/// name begins with. That is 1.3 MB for 128 names of 128 bytes, the most that a route takes.
const KEPT_MAX_COUNT: usize = 8;

/// What a message is, as its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageKind {
    Analysis,
    /// A preamble.
    Commentary,
    Final,
    Call,
}

impl MessageKind {
    pub(super) const ALL: [Self; 4] = [Self::Analysis, Self::Commentary, Self::Final, Self::Call];
}

/// What follows a symbol of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderStep {
    /// More of the header.
    Node(usize),
    /// The message's text.
    Text(MessageKind),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Symbol {
    Control(TokenId),
    Byte(u8),
}

/// What may come at a node, and what follows it.
type Edges = Box<[(Symbol, HeaderStep)]>;

/// Where headers begin, in the table's nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeaderStarts {
    /// Behind the `<|start|>assistant` that the prompt ends with.
    pub(super) given: usize,
    /// Behind a message that ended.
    pub(super) later: usize,
}

/// The headers that the answers to a chat may have. No two ways lead through the same symbols.
#[derive(Debug)]
pub struct HeaderTable {
    nodes: Box<[Edges]>,
    /// While the model may think, and once it may not.
    pub(super) open: HeaderStarts,
    pub(super) closing: HeaderStarts,
    /// The masks of the nodes that every header goes through.
    masks: BTreeMap<usize, Allowed>,
    /// What no text of a kind may have, by the place of the kind in [`MessageKind::ALL`].
    excepted: [Arc<[TokenId]>; 4],
    /// `<|end|>` and `<|return|>` alone.
    pub(super) only_end: Allowed,
    pub(super) only_return: Allowed,
    pub(super) grammars: Arc<Grammars>,
}

impl HeaderTable {
    /// The headers of a chat that may call `functions` and the custom tools `customs`.
    fn new(grammars: &Arc<Grammars>, functions: &[String], customs: &[String]) -> Self {
        let control = *grammars.tokenizer().control();
        let mut writer = TableWriter { nodes: Vec::new(), control };
        let calls = writer.calls(functions, customs);
        let open = writer.starts(calls.as_ref(), true);
        let closing = writer.starts(calls.as_ref(), false);
        let mut table = Self {
            nodes: writer.nodes.into_iter().map(Vec::into_boxed_slice).collect(),
            open,
            closing,
            masks: BTreeMap::new(),
            excepted: MessageKind::ALL.map(|kind| excepted(&control, kind).into()),
            only_end: only(grammars, [control.end]),
            only_return: only(grammars, [control.return_]),
            grammars: Arc::clone(grammars),
        };
        let channels = [open.given, closing.given].map(|start| table.follow(start, control.channel));
        let channels =
            channels.into_iter().filter_map(|step| if let Some(HeaderStep::Node(node)) = step { Some(node) } else { None });
        let starts = [open.given, open.later, closing.given, closing.later].into_iter();
        let names = calls
            .iter()
            .flat_map(|calls| [calls.behind_role, calls.behind_channel].into_iter().chain(calls.channels.iter().copied()));
        let often: Vec<usize> = starts.chain(channels).chain(names).collect();
        table.masks = often.into_iter().map(|node| (node, table.found(node))).collect();
        table
    }

    /// Memory that it takes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let nodes = size_of_val(&*self.nodes) + self.nodes.iter().map(|edges| size_of_val(&**edges)).sum::<usize>();
        let masks = self.masks.values().chain([&self.only_end, &self.only_return]);
        let words = |mask: &Allowed| if let Allowed::Only(words) = mask { size_of_val(&**words) } else { 0 };
        (nodes + masks.map(words).sum::<usize>()) as u64
    }

    /// What comes after `token` at `node`; nothing if it may not stand there.
    pub(super) fn follow(&self, node: usize, token: TokenId) -> Option<HeaderStep> {
        let edge = |node: usize, symbol: Symbol| self.nodes[node].iter().find(|(own, _)| *own == symbol).map(|(_, step)| *step);
        let tokenizer = self.grammars.tokenizer();
        if tokenizer.is_control(token) {
            return edge(node, Symbol::Control(token));
        }
        tokenizer.bytes_of(token).iter().try_fold(HeaderStep::Node(node), |step, byte| match step {
            HeaderStep::Node(node) => edge(node, Symbol::Byte(*byte)),
            HeaderStep::Text(_) => None,
        })
    }

    /// The tokens that may stand at `node`.
    pub(super) fn mask(&self, node: usize) -> Allowed {
        self.masks.get(&node).cloned().unwrap_or_else(|| self.found(node))
    }

    /// The tokens that may stand in a text of `kind`.
    pub(super) fn text_mask(&self, kind: MessageKind) -> Allowed {
        Allowed::Except(Arc::clone(&self.excepted[kind as usize]))
    }

    fn found(&self, node: usize) -> Allowed {
        let mut tokens = Vec::new();
        self.collect(node, 0..self.grammars.sorted().len(), 0, &mut tokens);
        only(&self.grammars, tokens)
    }

    /// The tokens at `node`: of those in `range` of the sorted ones, whose first `depth` bytes led
    /// here, and control tokens if there are no such bytes.
    fn collect(&self, node: usize, range: Range<usize>, depth: usize, tokens: &mut Vec<TokenId>) {
        let (sorted, tokenizer) = (self.grammars.sorted(), self.grammars.tokenizer());
        for (symbol, step) in &self.nodes[node] {
            let byte = match symbol {
                Symbol::Control(token) => {
                    tokens.extend((depth == 0).then_some(*token));
                    continue;
                }
                Symbol::Byte(byte) => *byte,
            };
            let at = |token: &TokenId| tokenizer.bytes_of(*token).get(depth).copied();
            let within = &sorted[range.clone()];
            let begin = range.start + within.partition_point(|token| at(token) < Some(byte));
            let end = range.start + within.partition_point(|token| at(token) <= Some(byte));
            let whole = sorted[begin..end].iter().take_while(|token| tokenizer.bytes_of(**token).len() == depth + 1);
            tokens.extend(whole);
            if let HeaderStep::Node(node) = step
                && begin < end
            {
                self.collect(*node, begin..end, depth + 1, tokens);
            }
        }
    }
}

/// What harmony does not let stand in a text of `kind`: tokens of headers, and ends of other kinds.
fn excepted(control: &ControlTokens, kind: MessageKind) -> Vec<TokenId> {
    let ends: &[Option<TokenId>] = match kind {
        // The answer would be empty.
        MessageKind::Analysis => &[Some(control.return_), Some(control.call), control.end_of_text],
        MessageKind::Commentary | MessageKind::Final => &[Some(control.call)],
        MessageKind::Call => &[Some(control.return_), control.end_of_text],
    };
    let of_headers = [control.start, control.channel, control.constrain, control.message];
    of_headers.into_iter().chain(ends.iter().copied().flatten()).collect()
}

fn only(grammars: &Grammars, tokens: impl IntoIterator<Item = TokenId>) -> Allowed {
    let mut words = vec![0; grammars.tokenizer().vocab_size().div_ceil(u32::BITS as usize)];
    super::set(&mut words, tokens.into_iter());
    Allowed::Only(words.into())
}

/// The parts of headers that name functions.
struct CallHeaders {
    /// Behind ` to=functions.` after the role: a name, and then a channel.
    behind_role: usize,
    /// The same after the channel: a name, and then the header's end.
    behind_channel: usize,
    /// Behind the `<|channel|>` of a header whose role has a recipient: a function, a custom tool.
    channels: Vec<usize>,
}

/// Writes headers as the model does.
struct TableWriter {
    nodes: Vec<Vec<(Symbol, HeaderStep)>>,
    control: ControlTokens,
}

impl TableWriter {
    fn node(&mut self) -> usize {
        self.nodes.push(Vec::new());
        self.nodes.len() - 1
    }

    fn edge(&mut self, from: usize, symbol: Symbol, to: HeaderStep) {
        self.nodes[from].push((symbol, to));
    }

    /// The node behind `text` at `from`; what is there already is used.
    fn text(&mut self, from: usize, text: &str) -> usize {
        text.bytes().fold(from, |from, byte| {
            let known = self.nodes[from].iter().find(|(symbol, _)| *symbol == Symbol::Byte(byte));
            if let Some((_, HeaderStep::Node(node))) = known {
                return *node;
            }
            let node = self.node();
            self.edge(from, Symbol::Byte(byte), HeaderStep::Node(node));
            node
        })
    }

    /// Goes on at `from` as at `like`.
    fn same(&mut self, from: usize, like: usize) {
        let edges = self.nodes[like].clone();
        self.nodes[from].extend(edges);
    }

    /// The end of a header of `kind`: the type of the text, or none, and `<|message|>`. The type
    /// stands behind its control token, with a blank before it or without one, or, where
    /// `is_bare` lets it, behind a blank alone.
    fn end(&mut self, kind: MessageKind, is_bare: bool) -> usize {
        let (end, constrained, blank) = (self.node(), self.node(), self.node());
        let (constrain, message) = (Symbol::Control(self.control.constrain), Symbol::Control(self.control.message));
        let json = self.text(constrained, "json");
        let mut ends = vec![end, json];
        if is_bare {
            ends.extend(["json", "code"].map(|kind| self.text(blank, kind)));
        }
        ends.into_iter().for_each(|at| self.edge(at, message, HeaderStep::Text(kind)));
        self.edge(end, constrain, HeaderStep::Node(constrained));
        self.edge(end, Symbol::Byte(b' '), HeaderStep::Node(blank));
        self.edge(blank, constrain, HeaderStep::Node(constrained));
        end
    }

    /// The headers of calls. The recipient stands behind the role or behind the channel, and the
    /// channel is commentary; the model writes analysis too, and means the same. The input of a
    /// custom tool has no type: what says `json` would be JSON.
    fn calls(&mut self, functions: &[String], customs: &[String]) -> Option<CallHeaders> {
        if functions.is_empty() && customs.is_empty() {
            return None;
        }
        let [behind_role, behind_channel] = [(); 2].map(|()| self.node());
        let mut channels = Vec::new();
        let typed = self.end(MessageKind::Call, true);
        let bare = self.node();
        self.edge(bare, Symbol::Control(self.control.message), HeaderStep::Text(MessageKind::Call));
        for (names, end) in [(functions, typed), (customs, bare)].into_iter().filter(|(names, _)| !names.is_empty()) {
            let channel = self.node();
            for name in ["commentary", "analysis"] {
                let named = self.text(channel, name);
                self.same(named, end);
            }
            for name in names {
                let addressed = self.text(behind_role, name);
                self.edge(addressed, Symbol::Control(self.control.channel), HeaderStep::Node(channel));
                let addressed = self.text(behind_channel, name);
                self.same(addressed, end);
            }
            channels.push(channel);
        }
        Some(CallHeaders { behind_role, behind_channel, channels })
    }

    /// ` to=functions.` at `from`, and then the names.
    fn recipient(&mut self, from: usize, names: usize) {
        let at = self.text(from, " to=functions");
        self.edge(at, Symbol::Byte(b'.'), HeaderStep::Node(names));
    }

    /// Where headers begin. Without `thinks` they are those of the answer: the final message's and
    /// the calls'.
    fn starts(&mut self, calls: Option<&CallHeaders>, thinks: bool) -> HeaderStarts {
        let (given, channel) = (self.node(), self.node());
        self.edge(given, Symbol::Control(self.control.channel), HeaderStep::Node(channel));
        let last = self.text(channel, "final");
        let end = self.end(MessageKind::Final, false);
        self.same(last, end);
        for (name, kind) in [("analysis", MessageKind::Analysis), ("commentary", MessageKind::Commentary)] {
            if !thinks && (calls.is_none() || kind == MessageKind::Analysis) {
                continue;
            }
            let named = self.text(channel, name);
            if thinks {
                self.edge(named, Symbol::Control(self.control.message), HeaderStep::Text(kind));
            }
            if let Some(calls) = calls {
                self.recipient(named, calls.behind_channel);
            }
        }
        if let Some(calls) = calls {
            self.recipient(given, calls.behind_role);
        }
        let (later, role) = (self.node(), self.node());
        self.edge(later, Symbol::Control(self.control.start), HeaderStep::Node(role));
        let named = self.text(role, "assistant");
        self.same(named, given);
        HeaderStarts { given, later }
    }
}

/// A table, and the names that it has.
type KeptTable = ([Vec<String>; 2], Arc<HeaderTable>);

/// Makes tables, and keeps those used last. May be called from several threads.
#[derive(Debug)]
pub struct HeaderTables {
    grammars: Arc<Grammars>,
    /// Of chats without functions: one for all, always kept once it is made.
    bare: OnceLock<Arc<HeaderTable>>,
    /// Of others by their functions and custom tools, the one used last first.
    kept: Mutex<VecDeque<KeptTable>>,
}

impl HeaderTables {
    /// Tables over the tokens of `grammars`; none is made yet.
    #[must_use]
    pub fn new(grammars: Arc<Grammars>) -> Self {
        Self { grammars, bare: OnceLock::new(), kept: Mutex::default() }
    }

    /// The table of a chat that may call `functions` and the custom tools `customs`.
    #[must_use]
    pub fn table(&self, functions: &[String], customs: &[String]) -> Arc<HeaderTable> {
        if functions.is_empty() && customs.is_empty() {
            return Arc::clone(self.bare.get_or_init(|| Arc::new(HeaderTable::new(&self.grammars, &[], &[]))));
        }
        let find = |kept: &mut VecDeque<KeptTable>| {
            let at = kept.iter().position(|([named, texts], _)| named == functions && texts == customs)?;
            let found = kept.remove(at)?;
            let table = Arc::clone(&found.1);
            kept.push_front(found);
            Some(table)
        };
        let locked = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(table) = find(&mut locked()) {
            return table;
        }
        // Not while the lock is held: other requests' tables are there.
        let table = Arc::new(HeaderTable::new(&self.grammars, functions, customs));
        let mut kept = locked();
        kept.push_front(([functions.to_vec(), customs.to_vec()], Arc::clone(&table)));
        kept.truncate(KEPT_MAX_COUNT);
        table
    }
}
