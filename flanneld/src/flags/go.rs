//! Reads a command line as Go's `flag` package does: one dash or two, `-name=value` or `-name value`. A switch takes a
//! value only after `=`. Everything after the first word that is not a flag is ignored.

/// A flag on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flag {
    /// The name without dashes.
    pub(super) name: String,
    /// The value. For a switch it is `true` or `false`.
    pub(super) value: String,
    /// Whether it has no value: a switch that is on, or a flag whose value is missing.
    pub(super) boolean: bool,
}

impl Flag {
    /// The flag in the one spelling that clap gets.
    pub(super) fn to_arg(&self) -> String {
        match (self.name.as_str(), self.boolean) {
            // whatever its value, as in Go
            ("h" | "help", _) => "--help".to_owned(),
            (name, true) => format!("--{name}"),
            (name, false) => format!("--{name}={}", self.value),
        }
    }
}

/// A command line, split into flags and warnings.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) flags: Vec<Flag>,
    pub(super) warnings: Vec<String>,
}

/// Splits `args`. `boolean` returns whether a name is a switch, and `None` for an unknown name.
pub(super) fn read(args: &[String], boolean: impl Fn(&str) -> Option<bool>) -> Line {
    let mut line = Line::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(body) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|b| !b.is_empty()) else {
            let left: Vec<_> = std::iter::once(arg).filter(|a| *a != "--").chain(rest).map(String::as_str).collect();
            if !left.is_empty() {
                line.warnings.push(format!(
                    "ignored, because flags cannot follow a word that is not a flag: {}",
                    without_secret(&left)
                ));
            }
            break;
        };
        let (name, given) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        line.flags.push(flag(name, given, boolean(name), &mut rest));
    }
    line
}

/// Hides a password, and the word after a password flag, from the log.
fn without_secret(words: &[&str]) -> String {
    match words.iter().position(|word| word.contains("password")) {
        Some(at) => format!("{} …", words[..at].join(" ")),
        None => words.join(" "),
    }
}

fn flag(name: &str, given: Option<String>, boolean: Option<bool>, rest: &mut std::slice::Iter<'_, String>) -> Flag {
    let name = name.to_owned();
    match (boolean, given) {
        (Some(true), given) => {
            let value = given.map_or("true".to_owned(), |v| truth(&v).map_or(v, |t| t.to_string()));
            Flag { boolean: value == "true", name, value }
        }
        (Some(false), None) => match rest.next() {
            Some(value) => Flag { name, value: value.clone(), boolean: false },
            // without a value: clap reports that
            None => Flag { name, value: String::new(), boolean: true },
        },
        (_, Some(value)) => Flag { name, value, boolean: false },
        (None, None) => Flag { name, value: String::new(), boolean: true },
    }
}

/// Go's `strconv.ParseBool`.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Go's `strconv.ParseInt` with base 0, which `flag` uses for numbers: decimal, or with the prefix 0x, 0b, 0o or 0.
/// With a prefix, `_` may be between digits.
pub(super) fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    let plain = if radix == 10 { digits.to_owned() } else { without_underscores(digits)? };
    // i64's own parser would accept a second sign
    let value = Some(plain).filter(|plain| plain.bytes().all(|b| b.is_ascii_hexdigit()))?;
    i64::from_str_radix(&format!("{}{value}", if negative { "-" } else { "" }), radix).ok()
}

/// Removes `_` from the digits. `None` if a `_` is not between two digits; one may follow the prefix.
fn without_underscores(digits: &str) -> Option<String> {
    let wrong = digits.ends_with('_') || digits.contains("__");
    (!wrong).then(|| digits.replace('_', ""))
}
