//! Whether an answer is Python: the code in it, and a parser's word for it.

use rustpython_parser::{Parse, ast};

/// The parser's complaint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no valid Python at character {offset}: {message}")]
pub struct PythonError {
    /// Characters before the place.
    pub offset: usize,
    /// What the parser says.
    pub message: String,
}

/// The code of an answer: what is in its Markdown fences, or all of it if it has none.
#[must_use]
pub fn code_of(answer: &str) -> String {
    let mut code = String::new();
    let (mut inside, mut fenced) = (false, false);
    for line in answer.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
            fenced = true;
        } else if inside {
            code.push_str(line);
            code.push('\n');
        }
    }
    if fenced { code } else { answer.to_owned() }
}

/// Parses a text as Python 3.
///
/// # Errors
/// [`PythonError`] with the place.
pub fn check_python(code: &str) -> Result<(), PythonError> {
    ast::Suite::parse(code, "<answer>").map(|_| ()).map_err(|error| PythonError {
        offset: code.get(..usize::from(error.offset)).map_or(0, |before| before.chars().count()),
        message: error.error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_are_taken_off_and_text_beside_them_is_left_out() {
        assert_eq!(code_of("Here:\n```python\nprint(\"Jay\")\n```\nDone."), "print(\"Jay\")\n");
        assert_eq!(code_of("print(\"Jay\")"), "print(\"Jay\")");
        // An answer that was cut off has an open fence.
        assert_eq!(code_of("```python\nprint("), "print(\n");
    }

    #[test]
    fn python_is_told_from_what_is_none() {
        for code in
            ["print(\"Jay\")", "for i in range(3):\n    print(f'{i!r:>4}')", "match x:\n    case 1:\n        pass\n", ""]
        {
            check_python(code).unwrap_or_else(|error| panic!("{code}: {error}"));
        }
        for code in ["print \"Jay\"", "print(\"Jay\"", "def f():\nreturn 1", "Sure! Here is code.", "console.log('Jay');;"] {
            assert!(check_python(code).is_err(), "{code}");
        }
        assert_eq!(check_python("print \"Jay\"").unwrap_err().offset, 6);
    }
}
