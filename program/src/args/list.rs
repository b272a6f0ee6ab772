//! Comma-separated lists.

use std::str::FromStr;

/// A list as Go's flag library writes and reads it: `a,b`, and `[]` for none.
/// A flag that is given more than once adds to the list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List(Vec<String>);

impl List {
    /// All values of a flag that may be given more than once.
    pub fn flatten(lists: Vec<Self>) -> Vec<String> {
        lists.into_iter().flat_map(|list| list.0).collect()
    }
}

impl FromStr for List {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let entries = inner.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        Ok(Self(entries.map(str::to_owned).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_that_manifests_use() {
        for (texts, expected) in [
            (&["[]"][..], &[][..]),
            (&[""], &[]),
            (&["a"], &["a"]),
            (&["a,b"], &["a", "b"]),
            (&["[a,b]"], &["a", "b"]),
            (&["a, b,"], &["a", "b"]),
            (&["a", "b,c"], &["a", "b", "c"]),
        ] {
            let lists = texts.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(List::flatten(lists), expected, "{texts:?}");
        }
    }
}
