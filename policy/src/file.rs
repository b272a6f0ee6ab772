//! The policy file: YAML, read as a whole or not at all.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, Visitor};

use crate::Policy;
use crate::rule::{Identity, Pattern, Ports, Rule};

/// Longest file. 10,000 rules with a network and ports take 640 KB and 0.14 s; with less, they do
/// not fit, and a longer file delays the start for nothing.
const MAX_FILE: u64 = 1024 * 1024;

/// Most rules. A dial compares its address with each network, 0.9 ns each; with more rules that shows
/// in the time of a dial, and fewer are not enough for a network of each node.
const MAX_RULES: usize = 10_000;

/// Longest name of a rule, which is a metric's label and part of every refusal.
const MAX_NAME: usize = 63;

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("cannot read the policy {path}: {error}")]
    Read { path: PathBuf, error: io::Error },
    /// It is longer than the limit.
    #[error("the policy {0} is longer than 1 MiB: split or merge its rules")]
    TooLong(PathBuf),
    /// It is no policy. `why` begins with the line, if that is known.
    #[error("the policy is not usable: {why}")]
    Unusable { why: String },
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    default: Action,
    #[serde(default)]
    rules: Vec<Written>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Name,
    action: Action,
    #[serde(default)]
    to: Option<Vec<Text<Pattern>>>,
    #[serde(default)]
    ports: Option<Vec<Text<Ports>>>,
    #[serde(default)]
    identities: Option<Vec<Text<Identity>>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Action {
    Allow,
    Deny,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(is_plain) || text == "default" {
            let shown: String = text.chars().take(MAX_NAME).collect();
            return Err(format!(
                "name: {shown:?} is no name of a rule: use up to {MAX_NAME} letters, digits, '-', '_' and '.', \
                 but not \"default\""
            ));
        }
        Ok(Self(text))
    }
}

/// A scalar that `T` is read from. YAML makes numbers of ports.
struct Text<T>(T);

trait Parse: Sized {
    fn parse(text: &str) -> Result<Self, String>;
}

impl Parse for Pattern {
    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Parse for Ports {
    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl Parse for Identity {
    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl<'de, T: Parse> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Scalar;

        impl Visitor<'_> for Scalar {
            type Value = String;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a text or a number")
            }

            fn visit_str<E>(self, text: &str) -> Result<String, E> {
                Ok(text.to_owned())
            }

            fn visit_u64<E>(self, number: u64) -> Result<String, E> {
                Ok(number.to_string())
            }

            fn visit_i64<E>(self, number: i64) -> Result<String, E> {
                Ok(number.to_string())
            }
        }
        let text = from.deserialize_any(Scalar)?;
        T::parse(&text).map(Self).map_err(D::Error::custom)
    }
}

impl Policy {
    /// Reads a file of at most 1 MiB. Blocks.
    ///
    /// # Errors
    /// When the file cannot be read or used. No part of it applies then.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        let failed = |error| PolicyError::Read { path: path.to_owned(), error };
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text))
            .map_err(failed)?;
        if text.len() as u64 > MAX_FILE {
            return Err(PolicyError::TooLong(path.to_owned()));
        }
        text.parse()
    }
}

impl FromStr for Policy {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let document: Document = serde_saphyr::from_str(text).map_err(|error| {
            let why = error.without_snippet().to_string();
            // The library puts the place at the end, and further lines below.
            PolicyError::Unusable { why: why.lines().next().unwrap_or_default().to_owned() }
        })?;
        let unusable = |why: String| Err(PolicyError::Unusable { why });
        if document.rules.len() > MAX_RULES {
            return unusable(format!("it has {} rules, and may have {MAX_RULES}", document.rules.len()));
        }
        let mut names = HashSet::new();
        if let Some(twice) = document.rules.iter().find(|rule| !names.insert(&rule.name.0)) {
            return unusable(format!("two rules have the name {:?}", twice.name.0));
        }
        if let Some((rule, field)) = document.rules.iter().find_map(|rule| Some((rule, rule.empty()?))) {
            return unusable(format!(
                "{field:?} of rule {:?} is an empty list: leave {field:?} out for everything, or the rule out for nothing",
                rule.name.0
            ));
        }
        let rules = document.rules.into_iter().map(Written::into_rule).collect();
        Ok(Self::new(rules, document.default == Action::Allow))
    }
}

impl Written {
    /// A list that is there and empty.
    fn empty(&self) -> Option<&'static str> {
        let is_empty = |length: Option<usize>| length == Some(0);
        [
            ("to", self.to.as_ref().map(Vec::len)),
            ("ports", self.ports.as_ref().map(Vec::len)),
            ("identities", self.identities.as_ref().map(Vec::len)),
        ]
        .into_iter()
        .find_map(|(field, length)| is_empty(length).then_some(field))
    }

    fn into_rule(self) -> Rule {
        Rule {
            name: self.name.0,
            allow: self.action == Action::Allow,
            to: plain(self.to),
            ports: plain(self.ports),
            identities: plain(self.identities),
        }
    }
}

fn plain<T>(list: Option<Vec<Text<T>>>) -> Box<[T]> {
    list.into_iter().flatten().map(|Text(value)| value).collect()
}
