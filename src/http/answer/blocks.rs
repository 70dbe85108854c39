//! Where an answer's text is cut, for APIs in which it is a list of blocks: by what it is, in the
//! order in which it was said.

/// What text is, of the two that an answer may go back to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::http) enum TextKind {
    /// The analysis.
    Reasoning,
    /// What is said to the user.
    Answer,
}

/// Cuts text into blocks as it comes.
#[derive(Debug, Default)]
pub(in crate::http) struct BlockCutter {
    open: Option<TextKind>,
    has_reasoning: bool,
    has_answer: bool,
    /// Line feeds that still separate the open block from an earlier one of its kind: as one text
    /// they would be joined by a blank line.
    separators_count: usize,
}

/// Text on its way to its block.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::http) struct CutText<'a> {
    /// A block begins with it.
    pub(in crate::http) begins: bool,
    /// What of it is the block's; may be empty.
    pub(in crate::http) text: &'a str,
}

impl BlockCutter {
    /// Text of that kind comes.
    pub(in crate::http) fn cut<'a>(&mut self, kind: TextKind, text: &'a str) -> CutText<'a> {
        let begins = self.open != Some(kind);
        if begins {
            let earlier = match kind {
                TextKind::Reasoning => &mut self.has_reasoning,
                TextKind::Answer => &mut self.has_answer,
            };
            self.separators_count = if std::mem::replace(earlier, true) { 2 } else { 0 };
            self.open = Some(kind);
        }
        let text = text.trim_start_matches(|c| {
            let separates = c == '\n' && self.separators_count > 0;
            self.separators_count -= usize::from(separates);
            separates
        });
        if !text.is_empty() {
            self.separators_count = 0;
        }
        CutText { begins, text }
    }

    /// Something comes that is no text: the block ends before it.
    pub(in crate::http) fn end_block(&mut self) {
        self.open = None;
    }
}

#[cfg(test)]
mod tests {
    use super::TextKind::{Answer, Reasoning};
    use super::*;

    #[test]
    fn text_that_is_gone_back_to_begins_a_block_without_the_blank_line_before_it() {
        let mut cutter = BlockCutter::default();
        let mut cut = |kind, text: &'static str| {
            let CutText { begins, text } = cutter.cut(kind, text);
            (begins, text)
        };
        assert_eq!(cut(Reasoning, "\na"), (true, "\na"), "the first of its kind is as it was said");
        assert_eq!(cut(Reasoning, "\n\nb"), (false, "\n\nb"));
        assert_eq!(cut(Answer, "c"), (true, "c"));
        assert_eq!(
            [cut(Reasoning, "\n"), cut(Reasoning, "\nd"), cut(Reasoning, "\n")],
            [(true, ""), (false, "d"), (false, "\n")]
        );
        assert_eq!(cut(Answer, "\n\n\ne"), (true, "\ne"));
        cutter.end_block();
        assert_eq!(cutter.cut(Answer, "\n\nf"), CutText { begins: true, text: "f" });
    }
}
