//! Splits a command line into words, without a shell.
//!
//! Quoting follows the POSIX shell (XCU 2.2): white space separates words; a backslash makes the next character
//! literal; between single quotes everything is literal; between double quotes a backslash works only before `"`,
//! `\\` and `$`. `$NAME` and `${NAME}` stand for a variable, except between single quotes, and never split into more
//! words. Nothing else is special: no pipes, redirections, substitutions or patterns.

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Literal text.
    Text(String),
    /// The value of a variable; empty when it is not set.
    Variable(String),
}

/// One word.
pub type Word = Vec<Part>;

/// Why a command cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// A quote is not closed.
    #[error("a {0} quote is not closed")]
    Open(&'static str),
    /// A backslash is the last character.
    #[error("it ends with a backslash")]
    Backslash,
    /// A `${` has no name or no `}`.
    #[error("a ${{NAME}} is not complete")]
    Variable,
    /// A character that no argument can contain.
    #[error("it contains a NUL")]
    Nul,
}

/// Splits `text` into words. White space alone contains none.
///
/// # Errors
/// A quote or a variable is not closed, or a backslash is the last character.
pub fn split(text: &str) -> Result<Vec<Word>, WordsError> {
    if text.contains('\0') {
        return Err(WordsError::Nul);
    }
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.peek().copied() {
        if c.is_whitespace() {
            chars.next();
        } else {
            words.push(word(&mut chars)?);
        }
    }
    Ok(words)
}

/// The word with every variable replaced by the result of `value`.
pub fn expand(word: &[Part], value: impl Fn(&str) -> Option<String>) -> String {
    word.iter()
        .map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Variable(name) => value(name).unwrap_or_default(),
        })
        .collect()
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

#[derive(Default)]
struct Builder {
    parts: Word,
    text: String,
}

impl Builder {
    fn variable(&mut self, name: String) {
        self.flush();
        self.parts.push(Part::Variable(name));
    }

    fn flush(&mut self) {
        if !self.text.is_empty() {
            self.parts.push(Part::Text(std::mem::take(&mut self.text)));
        }
    }

    /// A word without parts is the empty word, like `""`.
    fn finish(mut self) -> Word {
        self.flush();
        self.parts
    }
}

fn word(chars: &mut Chars<'_>) -> Result<Word, WordsError> {
    let mut builder = Builder::default();
    while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
        match c {
            '\'' => single(chars, &mut builder)?,
            '"' => double(chars, &mut builder)?,
            '\\' => builder.text.push(chars.next().ok_or(WordsError::Backslash)?),
            '$' => variable(chars, &mut builder)?,
            other => builder.text.push(other),
        }
    }
    Ok(builder.finish())
}

fn single(chars: &mut Chars<'_>, builder: &mut Builder) -> Result<(), WordsError> {
    loop {
        match chars.next().ok_or(WordsError::Open("single"))? {
            '\'' => return Ok(()),
            other => builder.text.push(other),
        }
    }
}

fn double(chars: &mut Chars<'_>, builder: &mut Builder) -> Result<(), WordsError> {
    const OPEN: WordsError = WordsError::Open("double");
    loop {
        match chars.next().ok_or(OPEN)? {
            '"' => return Ok(()),
            '\\' => match chars.next().ok_or(OPEN)? {
                special @ ('"' | '\\' | '$') => builder.text.push(special),
                other => builder.text.extend(['\\', other]),
            },
            '$' => variable(chars, builder)?,
            other => builder.text.push(other),
        }
    }
}

/// Reads a variable after `$`. A `$` without a name stands for itself.
fn variable(chars: &mut Chars<'_>, builder: &mut Builder) -> Result<(), WordsError> {
    let in_name = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let take = |chars: &mut Chars<'_>| std::iter::from_fn(|| chars.next_if(in_name)).collect::<String>();
    if chars.next_if_eq(&'{').is_some() {
        let name = take(chars);
        if name.is_empty() || chars.next_if_eq(&'}').is_none() {
            return Err(WordsError::Variable);
        }
        builder.variable(name);
        return Ok(());
    }
    match take(chars) {
        name if name.is_empty() => builder.text.push('$'),
        name => builder.variable(name),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let value = |name: &str| (name == "SUBNET").then(|| "10.5.1.0/24 x".to_owned());
        split(text).unwrap().iter().map(|word| expand(word, value)).collect()
    }

    #[test]
    fn words_are_split_as_a_shell_splits_them() {
        for (text, wanted) in [
            ("", &[][..]),
            ("  \t\n", &[]),
            ("ip  route add", &["ip", "route", "add"]),
            ("a'b c'd", &["ab cd"]),
            (r#"x "" ''"#, &["x", "", ""]),
            (r#""a \" \\ \$SUBNET \n b""#, &[r#"a " \ $SUBNET \n b"#]),
            (r"a\ b \$SUBNET \\", &["a b", "$SUBNET", "\\"]),
            ("'$SUBNET' $SUBNET", &["$SUBNET", "10.5.1.0/24 x"]),
            (r#"-s=${SUBNET}! "<$SUBNET>" $ $NONE. a$"#, &["-s=10.5.1.0/24 x!", "<10.5.1.0/24 x>", "$", ".", "a$"]),
            ("a; b | c > d `e` $(f)", &["a;", "b", "|", "c", ">", "d", "`e`", "$(f)"]),
        ] {
            assert_eq!(words(text), wanted, "{text:?}");
        }
    }

    #[test]
    fn what_is_not_complete_is_refused() {
        for (text, error) in [
            ("a 'b", WordsError::Open("single")),
            (r#"a "b"#, WordsError::Open("double")),
            (r#"a "b\"#, WordsError::Open("double")),
            ("a\\", WordsError::Backslash),
            ("${a", WordsError::Variable),
            ("${}", WordsError::Variable),
            ("${a b}", WordsError::Variable),
            ("a\0b", WordsError::Nul),
        ] {
            assert_eq!(split(text), Err(error), "{text:?}");
        }
    }
}
