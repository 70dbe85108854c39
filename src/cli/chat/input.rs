//! What was typed: a message for the model, or a command for the talk.

/// The commands, as `/help` shows them.
pub(super) const HELP: &str = "\
/exit, Ctrl-D        end the talk; so does Ctrl-C, which stops an answer first if one comes
/clear               forget what was said; the instructions and settings stay
/system TEXT         give the model instructions; `/system none` takes them back, `/system` shows them
/set NAME VALUE      change how answers are made; `/set` shows the names and their values
/help                show this
Text that is pasted is one message, line breaks included. A message that begins with a slash has a blank before it.
";

/// The longest piece of a command that is quoted back.
const QUOTE_MAX_CHARS: usize = 40;

/// What a text asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TypedInput<'a> {
    /// Nothing at all.
    Nothing,
    /// An answer to this message.
    Message(&'a str),
    /// The end of the talk.
    Exit,
    /// The list of commands.
    Help,
    /// A talk that begins anew.
    Clear,
    /// Other instructions, or a look at them if the text is empty.
    System(&'a str),
    /// Another value of a setting, or a look at one or all where texts are empty.
    Set(&'a str, &'a str),
    /// Something that begins like a command and is none: why.
    Unknown(String),
}

/// Reads a text. What begins with a slash is never a message.
pub(super) fn read(text: &str) -> TypedInput<'_> {
    if text.trim().is_empty() {
        return TypedInput::Nothing;
    }
    if !text.starts_with('/') {
        // Blanks at the start may be the indentation of pasted code.
        return TypedInput::Message(text.trim_end().trim_start_matches(['\n', '\r']));
    }
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    match (word, rest.is_empty()) {
        ("/exit", true) => TypedInput::Exit,
        ("/help", true) => TypedInput::Help,
        ("/clear", true) => TypedInput::Clear,
        ("/exit" | "/help" | "/clear", false) => {
            TypedInput::Unknown(format!("{word} takes nothing after it, found {}", quote(rest)))
        }
        ("/system", _) => TypedInput::System(rest),
        ("/set", _) => {
            let (name, value) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            TypedInput::Set(name, value.trim())
        }
        _ => TypedInput::Unknown(format!(
            "{} is no command; /help lists them, and a blank before it makes it a message",
            quote(word)
        )),
    }
}

/// The beginning of what was typed, harmless to a terminal.
pub(super) fn quote(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(QUOTE_MAX_CHARS).collect();
    if text.chars().count() > QUOTE_MAX_CHARS {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_nothing_that_looks_like_one_is_a_message() {
        for (text, wanted) in [
            ("", TypedInput::Nothing),
            (" \t\n", TypedInput::Nothing),
            ("hello there ", TypedInput::Message("hello there")),
            ("\n    indented\n\nlast\n", TypedInput::Message("    indented\n\nlast")),
            (" /etc/passwd is what?", TypedInput::Message(" /etc/passwd is what?")),
            ("/exit", TypedInput::Exit),
            ("/exit \n", TypedInput::Exit),
            ("/help", TypedInput::Help),
            ("/clear", TypedInput::Clear),
            ("/system", TypedInput::System("")),
            ("/system Be kind.\nBe brief.", TypedInput::System("Be kind.\nBe brief.")),
            ("/set", TypedInput::Set("", "")),
            ("/set seed", TypedInput::Set("seed", "")),
            ("/set  temperature  0.5 ", TypedInput::Set("temperature", "0.5")),
        ] {
            assert_eq!(read(text), wanted, "{text:?}");
        }
        for text in ["/", "//", "/Exit", "/exitnow", "/exit now", "/quit", "/etc/passwd", "/* code */\nint x;", "/\u{1b}[31m"] {
            let TypedInput::Unknown(why) = read(text) else { panic!("{text:?} is taken for {:?}", read(text)) };
            assert!(!why.contains(['\u{1b}', '\n']), "{why:?}");
        }
        let TypedInput::Unknown(why) = read(&format!("/{}", "x".repeat(5000))) else { panic!("no command") };
        assert!(why.len() < 200, "{why}");
    }
}
