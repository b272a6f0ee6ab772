//! YAML documents as JSON values, in the format that kubeadm writes.

use serde_json::Value;

use crate::fault::Fault;

/// The only document of `text`. `name` is for errors.
///
/// # Errors
/// When the text is not one YAML document.
pub(crate) fn parse(name: &str, text: &str) -> Result<Value, Fault> {
    serde_saphyr::from_str(text).map_err(|error| unusable(name, &error))
}

/// All documents of `text`.
///
/// # Errors
/// When the text is not YAML.
pub(crate) fn parse_all(name: &str, text: &str) -> Result<Vec<Value>, Fault> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).map_err(|error| unusable(name, &error))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// Block style, with keys in the order of the alphabet and lists at their key's indentation.
pub(crate) fn render(value: &Value) -> String {
    let options = serde_saphyr::ser_options! {
        compact_list_indent: true,
        folded_wrap_chars: usize::MAX,
    };
    // Fails for maps whose keys are no strings, and JSON has none.
    serde_saphyr::to_string_with_options(value, options).unwrap_or_default()
}

fn unusable(name: &str, error: &serde_saphyr::Error) -> Fault {
    let why = error.to_string();
    let why = why.lines().next().unwrap_or_default();
    Fault::new(format!("{name} is no usable YAML: {why}"), format!("correct {name}"))
}
