//! Changes as a person reads them.

use diffy::DiffOptions;

/// A unified diff with three lines of context. An absent text is an empty one.
pub(crate) fn diff(name: &str, before: Option<&str>, after: Option<&str>) -> String {
    let (old, new) = (before.unwrap_or_default(), after.unwrap_or_default());
    let label = |text: Option<&str>| if text.is_some() { name.to_owned() } else { "/dev/null".to_owned() };
    if old == new {
        return String::new();
    }
    let mut options = DiffOptions::new();
    options.set_original_filename(label(before)).set_modified_filename(label(after));
    options.create_patch(old, new).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_changed_and_removed_files_differ_in_their_heads() {
        assert_eq!(diff("a", None, Some("x\n")), "--- /dev/null\n+++ a\n@@ -0,0 +1 @@\n+x\n");
        assert_eq!(diff("a", Some("x\n"), None), "--- a\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n");
        assert_eq!(diff("a", Some("x\ny\n"), Some("x\nz\n")), "--- a\n+++ a\n@@ -1,2 +1,2 @@\n x\n-y\n+z\n");
        assert_eq!(diff("a", Some("x\n"), Some("x\n")), "");
    }
}
