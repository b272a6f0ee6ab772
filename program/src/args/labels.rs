//! Kubernetes labels and label selectors in flags. They are checked at the start:
//! the API would answer a mistyped selector with an empty list.

/// Longest name of a label, and longest value.
const MAX_PART: usize = 63;

/// Longest prefix of a label's key, a DNS name.
const MAX_PREFIX: usize = 253;

/// Most characters of a part that an error quotes: the longest label is shown whole.
const MAX_QUOTED: usize = MAX_PREFIX + 1 + MAX_PART;

/// The refusal of a selector's requirement.
const FORMS: &str =
    "is no requirement: use key=value, key!=value, key in (a,b), key notin (a,b), key or !key";

/// Reads `key=value,key=value`, at least one pair. Of one key, the last value counts.
///
/// # Errors
/// When Kubernetes would not take the text for labels.
pub fn labels(text: &str) -> Result<Vec<(String, String)>, String> {
    if text.trim().is_empty() {
        return Err("use key=value, several separated by commas".to_owned());
    }
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in text.split(',') {
        let Some((key, value)) = pair.split_once('=').filter(|(_, value)| !value.contains('=')) else {
            return Err(format!("{} is not of the form key=value", quoted(pair)));
        };
        let (key, value) = (checked_key(key)?.to_owned(), checked_value(value)?.to_owned());
        pairs.retain(|(known, _)| *known != key);
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Checks a label selector and returns it unchanged. An empty one selects everything.
///
/// # Errors
/// When Kubernetes would not read it.
pub fn selector(text: &str) -> Result<String, String> {
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = requirement_end(rest);
        let (requirement, tail) = rest.split_at(end);
        requirement_is_sound(requirement.trim())?;
        rest = match tail.strip_prefix(',') {
            Some(next) if next.trim().is_empty() => return Err(format!("\"\" {FORMS}")),
            Some(next) => next.trim_start(),
            None => "",
        };
    }
    Ok(text.to_owned())
}

/// The end of a requirement: the first comma that is not within parentheses.
fn requirement_end(text: &str) -> usize {
    let mut within = false;
    text.find(|c| {
        match c {
            '(' => within = true,
            ')' => within = false,
            _ => {}
        }
        c == ',' && !within
    })
    .unwrap_or(text.len())
}

fn requirement_is_sound(text: &str) -> Result<(), String> {
    let bad = || format!("{} {FORMS}", quoted(text));
    if let Some(key) = text.strip_prefix('!') {
        return checked_key(key).map(|_| ());
    }
    if let Some(set) = text.strip_suffix(')') {
        let (head, values) = set.split_once('(').ok_or_else(bad)?;
        let mut words = head.split_whitespace();
        let (Some(key), Some("in" | "notin"), None) = (words.next(), words.next(), words.next()) else {
            return Err(bad());
        };
        checked_key(key)?;
        return values.split(',').try_for_each(|value| checked_value(value).map(|_| ()));
    }
    for sign in ["!=", "==", "="] {
        if let Some((key, value)) = text.split_once(sign) {
            checked_key(key)?;
            return checked_value(value).map(|_| ());
        }
    }
    for sign in ['>', '<'] {
        if let Some((key, value)) = text.split_once(sign) {
            checked_key(key)?;
            return value.trim().parse::<i64>().map(|_| ()).map_err(|_| bad());
        }
    }
    checked_key(text).map(|_| ()).map_err(|_| bad())
}

fn checked_key(text: &str) -> Result<&str, String> {
    let key = text.trim();
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let prefix_ok = prefix.is_none_or(|prefix| {
        prefix.len() <= MAX_PREFIX
            && prefix.split('.').all(|label| {
                is_part(label)
                    && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            })
    });
    if prefix_ok && is_part(name) { Ok(key) } else { Err(format!("{} is no label key", quoted(key))) }
}

fn checked_value(text: &str) -> Result<&str, String> {
    let value = text.trim();
    if value.is_empty() || is_part(value) {
        Ok(value)
    } else {
        Err(format!("{} is no label value", quoted(value)))
    }
}

/// A part of a flag in quotes, and no more of it than a line of an error has room for.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Whether `text` is letters and digits, and between them also `-`, `_` and dots.
fn is_part(text: &str) -> bool {
    let ends = |b: &u8| b.is_ascii_alphanumeric();
    let bytes = text.as_bytes();
    bytes.len() <= MAX_PART
        && bytes.first().is_some_and(ends)
        && bytes.last().is_some_and(ends)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(labels("k8s-app=konnectivity-server"), Ok(vec![pair("k8s-app", "konnectivity-server")]));
        assert_eq!(
            labels("example.com/a=b, c=,a=1,a=2"),
            Ok(vec![pair("example.com/a", "b"), pair("c", ""), pair("a", "2")])
        );
        assert_eq!(labels(""), Err("use key=value, several separated by commas".to_owned()));
        for bad in ["a", "a=b=c", "a=b,", "=b", "a=b c", "-a=b", "a=b-", "Example.com/a=b", "a/b/c=d", "a=ü"]
        {
            assert!(labels(bad).is_err(), "{bad}");
        }
        assert!(labels(&format!("{}=b", "a".repeat(64))).is_err());
        let long = "ü".repeat(4096);
        for bad in [long.clone(), format!("{long}=b"), format!("a={long}")] {
            let error = labels(&bad).unwrap_err();
            assert!(error.len() < 1000 && error.contains("ü\"…"), "{error}");
        }
    }

    #[test]
    fn selectors_of_every_form() {
        for good in [
            "",
            "k8s-app=konnectivity-server",
            "a==b",
            "a!=b,c",
            "!a",
            "a in (b, c),d notin (e)",
            "a in (b),c=d",
            "a=",
            "example.com/a>5",
        ] {
            assert_eq!(selector(good), Ok(good.to_owned()), "{good}");
        }
        for bad in ["a b", "a in b", "a in (b", "=b", "a=b,", ",", "a>b", "a within (b)", "a=b=c", "!"] {
            assert!(selector(bad).is_err(), "{bad}");
        }
    }
}
