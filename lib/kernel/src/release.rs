//! The abilities of the running kernel, by its release.

use rustix::system::uname;

/// Whether the kernel can rename a link that is up: since Linux 6.2 (`dev_change_name`, net/core/dev.c).
pub fn renames_links() -> bool {
    at_least(uname().release().to_bytes(), (6, 2))
}

/// An unreadable release counts as old.
fn at_least(release: &[u8], wanted: (u32, u32)) -> bool {
    let mut numbers =
        release.split(|byte| !byte.is_ascii_digit()).map(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
    let mut next = || numbers.next().flatten();
    next().zip(next()).is_some_and(|release| release >= wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (release, new) in [
            ("6.2.0", true),
            ("6.18.44-fc-v669", true),
            ("10.0", true),
            ("6.1.0-42-amd64", false),
            ("5.15.0", false),
            ("6", false),
            ("", false),
            ("x.y", false),
        ] {
            assert_eq!(at_least(release.as_bytes(), (6, 2)), new, "{release}");
        }
    }
}
