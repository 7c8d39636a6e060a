//! The list of tests that are expected to fail: `tests/known-faults`.
//!
//! Each of them shows a known fault. It runs with all other tests. The run fails if such a test passes (remove it from
//! the list), and if it fails for another reason than the listed one.

/// The list in this source tree.
const LIST: &str = include_str!("../known-faults");

/// The test binaries that use the list.
const TIERS: [&str; 4] = ["t1", "t2", "t3", "vm"];

/// A test that is expected to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The binary: `t1`, `t2`, `t3` or `vm`.
    pub tier: &'static str,
    /// The test's name, `module::sentence`.
    pub test: &'static str,
    /// The fault's name, such as `F1`.
    pub row: &'static str,
    /// A part of the failing test's output.
    pub says: &'static str,
}

/// Parses the list. The error contains every mistake.
pub fn list() -> Result<Vec<Fault>, String> {
    parse(LIST)
}

fn parse(text: &'static str) -> Result<Vec<Fault>, String> {
    let mut faults: Vec<Fault> = Vec::new();
    let mut mistakes = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
        let fields: Vec<&str> = line.split('|').map(str::trim).collect();
        match fields[..] {
            [tier, test, row, says] if !says.is_empty() && TIERS.contains(&tier) => {
                if faults.iter().any(|other| (other.tier, other.test) == (tier, test)) {
                    mistakes.push(format!("line {}: {tier} {test} is listed twice", number + 1));
                }
                faults.push(Fault { tier, test, row, says });
            }
            _ => mistakes.push(format!("line {}: not `{} | TEST | ROW | TEXT`: {line}", number + 1, TIERS.join("/"))),
        }
    }
    if mistakes.is_empty() { Ok(faults) } else { Err(format!("tests/known-faults: {}", mistakes.join("; "))) }
}

/// The faults of one binary. An entry whose test is not in `tests` is a mistake.
pub fn of(tier: &str, tests: &[&str]) -> Result<Vec<Fault>, String> {
    let faults: Vec<Fault> = list()?.into_iter().filter(|fault| fault.tier == tier).collect();
    match faults.iter().find(|fault| !tests.contains(&fault.test)) {
        Some(stray) => Err(format!("tests/known-faults: {tier} has no test {}", stray.test)),
        None => Ok(faults),
    }
}

impl Fault {
    /// Judges the outcome of this test: `Ok` if it failed as listed.
    pub fn judge(&self, good: bool, text: &str) -> Result<(), String> {
        match good {
            true => Err(format!("passes: take it off tests/known-faults ({})", self.row)),
            false if text.contains(self.says) => Ok(()),
            false => Err(format!("fails otherwise than tests/known-faults says ({:?}):\n{text}", self.says)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_can_be_read() {
        list().unwrap();
    }

    #[test]
    fn mistakes_are_named_together() {
        let text =
            "# a comment\n\nt1 | a::b | F1 | gone\nt1 | a::b | F1 | gone\nt9 | a::c | F2 | x\nt2 | a::d | F3 |\n";
        let error = parse(text).unwrap_err();
        for part in ["line 4: t1 a::b is listed twice", "line 5: not `t1/t2/t3/vm", "line 6: not"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }

    #[test]
    fn only_the_listed_failure_is_expected() {
        let fault = Fault { tier: "t1", test: "a::b", row: "F1", says: "gone" };
        fault.judge(false, "the gateway is gone").unwrap();
        assert!(fault.judge(true, "").unwrap_err().starts_with("passes"));
        assert!(fault.judge(false, "no such program").unwrap_err().starts_with("fails otherwise"));
    }
}
