//! A rule as `iptables-save` prints it behind `-A CHAIN`.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use kernel::nft;
use kernel::nft::{Expr, Is, NftFamily, RuleBuilder, Side, Verdict};
use kernel::types::Family;

/// The longest comment in bytes: XT_MAX_COMMENT_LEN (linux/netfilter/xt_comment.h) minus the terminating zero.
const LONGEST_COMMENT: usize = 255;

/// The words of a rule: matches and target. Two rules are equal if their words are, however they are quoted.
///
/// ```
/// use attachment::rules::iptables::Rule;
/// let rule = Rule::new(["-s", "10.1.2.3/32", "-m", "comment", "--comment", "name: \"n\"", "-j", "CNI-1"]);
/// assert_eq!(rule.to_string(), r#"-s 10.1.2.3/32 -m comment --comment "name: \"n\"" -j CNI-1"#);
/// assert_eq!(Rule::parse(&rule.to_string()), rule);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule(Vec<String>);

impl Rule {
    /// A rule of these words. They must be in the order of `iptables-save`: addresses (with a prefix length), interfaces,
    /// protocol, matches, target. A rule in another order is written, but is not recognized when it is read.
    pub fn new<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        Self(words.into_iter().map(Into::into).collect())
    }

    /// Splits a line as `iptables-restore` does: at spaces, with double quotes around words, and `\` before a character
    /// inside quotes.
    pub fn parse(line: &str) -> Self {
        let (mut words, mut word, mut quoted) = (Vec::new(), None::<String>, false);
        let mut chars = line.chars();
        while let Some(char) = chars.next() {
            match char {
                '"' => {
                    quoted = !quoted;
                    word.get_or_insert_default();
                }
                '\\' if quoted => word.get_or_insert_default().extend(chars.next()),
                ' ' | '\t' if !quoted => words.extend(word.take()),
                char => word.get_or_insert_default().push(char),
            }
        }
        words.extend(word);
        Self(words)
    }

    /// The target: the chain or the verdict behind `-j` or `-g`.
    pub fn target(&self) -> Option<&str> {
        self.value("-j").or_else(|| self.value("-g"))
    }

    /// The comment of `-m comment`.
    pub fn comment(&self) -> Option<&str> {
        self.value("--comment")
    }

    fn value(&self, option: &str) -> Option<&str> {
        let at = self.0.iter().position(|word| word == option)?;
        self.0.get(at + 1).map(String::as_str)
    }

    /// Whether it has matches beside addresses and the comment.
    fn has_matches(&self) -> bool {
        self.0.windows(2).any(|pair| match [&*pair[0], &*pair[1]] {
            ["-m", module] => module != "comment",
            [option, _] => ["-p", "-i", "-o"].contains(&option),
        })
    }

    /// Whether `rule` of nf_tables is this one, as `iptables-nft` stores it: it has these addresses, leads to this target,
    /// and has other matches if this one has. Those are not compared, because nf_tables shows some only as bytes.
    pub(super) fn is_stored_as(&self, family: NftFamily, rule: &nft::Rule) -> bool {
        let addresses = [("-s", Side::Source), ("-d", Side::Destination)].into_iter().filter_map(|(option, side)| {
            let net: IpNetwork = self.value(option)?.parse().ok()?;
            Some(RuleBuilder::new(family).addr(side, Is::Eq, net).done().exprs)
        });
        let addresses: Vec<Expr> = addresses.flatten().collect();
        let verdict = match self.target() {
            Some("ACCEPT") => Verdict::Accept,
            Some("DROP") => Verdict::Drop,
            Some("RETURN") => Verdict::Return,
            Some(chain) => Verdict::Jump(chain.to_owned()),
            None => return false,
        };
        let found: Vec<&Expr> = rule.exprs.iter().filter(|expr| **expr != Expr::Counter).collect();
        let Some((last, matches)) = found.split_last() else { return false };
        let begins =
            matches.len() >= addresses.len() && matches.iter().zip(&addresses).all(|(one, other)| *one == other);
        begins && **last == Expr::Verdict(verdict) && (matches.len() > addresses.len()) == self.has_matches()
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.0.iter().enumerate() {
            let gap = if at == 0 { "" } else { " " };
            let plain = !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || "\"\\'".contains(c));
            match plain {
                true => write!(f, "{gap}{word}")?,
                false => write!(f, "{gap}\"{}\"", word.replace('\\', "\\\\").replace('"', "\\\""))?,
            }
        }
        Ok(())
    }
}

/// The comment in a length that iptables accepts; upstream shortens its own so (portmap, `trimComment`).
pub fn clip_comment(comment: &str) -> String {
    match comment.len() {
        0..=LONGEST_COMMENT => comment.to_owned(),
        _ => {
            let end = (0..=LONGEST_COMMENT - 3).rev().find(|at| comment.is_char_boundary(*at)).unwrap_or_default();
            format!("{}...", &comment[..end])
        }
    }
}

/// A single address as `iptables-save` prints it: `10.1.2.3/32`, `fd00::3/128`.
pub fn host(address: IpAddr) -> String {
    kernel::types::host_net(address).to_string()
}

/// nf_tables' family of the tables of `iptables-nft` or `ip6tables-nft`.
pub(super) fn nft_family(family: Family) -> NftFamily {
    match family {
        Family::V4 => NftFamily::Ip,
        Family::V6 => NftFamily::Ip6,
    }
}
