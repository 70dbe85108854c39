//! Stop strings over streamed text: what may still become one is held back, nothing else.
//!
//! Owns: an automaton over all stop strings of a response (Aho & Corasick 1975), and the text held
//! back. Promises: time linear in the text, however many stop strings there are; the same cut,
//! however the text was split. The stop string that is complete first wins; of several that are
//! complete at once, the longest. Text before it is given out, text after it never, and text of it
//! only where it is to be kept.
//! Absent on purpose: limits on stop strings, which text they apply to.

use std::collections::VecDeque;
use std::sync::Arc;

/// A node of the trie of all stop strings. Children form a list: at most 256, and mostly one.
#[derive(Debug, Clone)]
struct Node {
    byte: u8,
    first_child: u32,
    next_sibling: u32,
    /// The node of the longest proper suffix of this node's text that is in the trie.
    suffix: u32,
    /// Length of this node's text.
    depth: u32,
    /// The longest stop string that this node's text ends with.
    ends: u32,
}

const ROOT: u32 = 0;
const NONE: u32 = u32::MAX;

/// The stop strings of a response, made ready once and shared by its choices.
#[derive(Debug)]
pub struct StopSet {
    strings: Vec<String>,
    nodes: Vec<Node>,
    /// The stop string itself is given out too.
    keeps: bool,
}

impl StopSet {
    /// Makes `strings` ready; empty ones are left out, for they would stop everything.
    ///
    /// Time and memory are linear in their joined length, which must stay below 2^32 bytes.
    #[must_use]
    pub fn new(strings: &[String]) -> Self {
        let strings: Vec<String> = strings.iter().filter(|string| !string.is_empty()).cloned().collect();
        let root = Node { byte: 0, first_child: NONE, next_sibling: NONE, suffix: ROOT, depth: 0, ends: NONE };
        let mut set = Self { strings, nodes: vec![root], keeps: false };
        for index in 0..set.strings.len() {
            set.insert(index);
        }
        set.link_suffixes();
        set
    }

    /// The same; if `keeps`, the stop string that is found is part of the text.
    #[must_use]
    pub fn keeping(self, keeps: bool) -> Self {
        Self { keeps, ..self }
    }

    /// Whether there is nothing to look for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.strings.is_empty()
    }

    fn insert(&mut self, index: usize) {
        let mut at = ROOT;
        for position in 0..self.strings[index].len() {
            let byte = self.strings[index].as_bytes()[position];
            at = match self.child(at, byte) {
                NONE => self.add_child(at, byte),
                child => child,
            };
        }
        let node = &mut self.nodes[at as usize];
        if node.ends == NONE {
            node.ends = u32::try_from(index).expect("fewer than 2^32 stop strings");
        }
    }

    fn child(&self, at: u32, byte: u8) -> u32 {
        let mut child = self.nodes[at as usize].first_child;
        while child != NONE && self.nodes[child as usize].byte != byte {
            child = self.nodes[child as usize].next_sibling;
        }
        child
    }

    fn add_child(&mut self, at: u32, byte: u8) -> u32 {
        let child = u32::try_from(self.nodes.len()).expect("stop strings below 2^32 bytes");
        let parent = &mut self.nodes[at as usize];
        let next_sibling = std::mem::replace(&mut parent.first_child, child);
        let depth = parent.depth + 1;
        self.nodes.push(Node { byte, first_child: NONE, next_sibling, suffix: ROOT, depth, ends: NONE });
        child
    }

    /// Breadth first, so that every shorter text is linked before it is asked for.
    fn link_suffixes(&mut self) {
        let mut queue = VecDeque::from([ROOT]);
        while let Some(at) = queue.pop_front() {
            let mut child = self.nodes[at as usize].first_child;
            while child != NONE {
                if at != ROOT {
                    let byte = self.nodes[child as usize].byte;
                    let suffix = self.step(self.nodes[at as usize].suffix, byte);
                    self.nodes[child as usize].suffix = suffix;
                    if self.nodes[child as usize].ends == NONE {
                        self.nodes[child as usize].ends = self.nodes[suffix as usize].ends;
                    }
                }
                queue.push_back(child);
                child = self.nodes[child as usize].next_sibling;
            }
        }
    }

    /// The node of the longest suffix of (text of `at`) + `byte` that is in the trie.
    fn step(&self, mut at: u32, byte: u8) -> u32 {
        loop {
            match self.child(at, byte) {
                NONE if at == ROOT => return ROOT,
                NONE => at = self.nodes[at as usize].suffix,
                child => return child,
            }
        }
    }
}

/// The search for stop strings in one streamed text.
#[derive(Debug, Clone)]
pub struct StopStrings {
    set: Arc<StopSet>,
    at: u32,
    held: String,
    matched: bool,
}

impl StopStrings {
    /// A search at the beginning of a text.
    #[must_use]
    pub fn new(set: Arc<StopSet>) -> Self {
        Self { set, at: ROOT, held: String::new(), matched: false }
    }

    /// The text that is held back: the beginning of a stop string, perhaps.
    #[must_use]
    pub fn held(&self) -> &str {
        &self.held
    }

    /// Takes the next text and appends to `out` what is certainly not part of a stop string.
    /// Answers the stop string that was found, if one was: then the text is at its end, and
    /// later calls give nothing.
    pub fn push(&mut self, text: &str, out: &mut String) -> Option<String> {
        if self.matched {
            return None;
        }
        let held_before = self.held.len();
        self.held.push_str(text);
        for (offset, byte) in text.bytes().enumerate() {
            self.at = self.set.step(self.at, byte);
            let ends = self.set.nodes[self.at as usize].ends;
            if ends != NONE {
                let found = &self.set.strings[ends as usize];
                let cut = if self.set.keeps { 0 } else { found.len() };
                out.push_str(&self.held[..held_before + offset + 1 - cut]);
                self.held.clear();
                self.matched = true;
                return Some(found.clone());
            }
        }
        // What is held starts a stop string, and stop strings start at a character's first byte:
        // the cut is between characters.
        let safe = self.held.len() - self.set.nodes[self.at as usize].depth as usize;
        out.push_str(&self.held[..safe]);
        self.held.drain(..safe);
        None
    }

    /// Appends what was held back: no more text comes. The search is then at the beginning of a
    /// text again.
    pub fn flush(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
        self.at = ROOT;
    }
}

#[cfg(test)]
#[path = "stop_tests.rs"]
mod tests;
