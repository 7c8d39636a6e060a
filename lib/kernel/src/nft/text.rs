//! Temporary.
use super::*;
pub(crate) fn rule(_family: NftFamily, rule: &Rule) -> String {
    format!("{:?}", rule.comment)
}
pub(crate) fn chain(chain: &Chain) -> String {
    chain.name.clone()
}
pub(crate) fn set(set: &Set) -> String {
    set.name.clone()
}
pub(crate) fn elements(elements: &[Element]) -> String {
    format!("{} elements", elements.len())
}
