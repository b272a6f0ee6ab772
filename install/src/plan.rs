//! Changes of a node's files and of the cluster's objects: shown first, and made in their order.

use serde_json::Value;

use crate::cluster::{Cluster, title};
use crate::diff::diff;
use crate::fault::Fault;
use crate::host::{Host, SERVER_KUBECONFIG};
use crate::say::say;
use crate::yaml;

/// A change.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// A file gets a text, or goes away.
    File { name: String, before: Option<String>, after: Option<String>, mode: u32 },
    /// An object is applied, or deleted.
    Object { object: Value, before: Option<String>, after: Option<String> },
    /// An object of somebody else gets a merge patch.
    Patch { patch: Value, before: Option<String>, after: Option<String> },
}

impl Change {
    /// The change of a file to `after`; `None` if it has that text already.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn of_file(
        host: &Host,
        name: &str,
        after: Option<&str>,
        mode: u32,
    ) -> Result<Option<Self>, Fault> {
        let before = host.read(name)?;
        let after = after.map(str::to_owned);
        Ok((before != after).then(|| Self::File { name: name.to_owned(), before, after, mode }))
    }

    /// The change that applying an object makes; `None` if it makes none.
    ///
    /// # Errors
    /// When the kube-apiserver refuses the object.
    pub(crate) async fn of_applied(cluster: &Cluster, object: Value) -> Result<Option<Self>, Fault> {
        let before = cluster.get(&object).await?;
        let after = cluster.apply(&object, true).await?.unwrap_or_else(|| object.clone());
        if before.as_ref() == Some(&after) {
            return Ok(None);
        }
        // A new object is shown as it is written, without the defaults of some hundred lines.
        let after = if before.is_some() { &after } else { &object };
        let (before, after) = (before.as_ref().map(yaml::render), Some(yaml::render(after)));
        Ok(Some(Self::Object { object, before, after }))
    }

    /// The change that a merge patch makes; `None` if it makes none.
    ///
    /// # Errors
    /// When the kube-apiserver refuses the patch.
    pub(crate) async fn of_patched(cluster: &Cluster, patch: Value) -> Result<Option<Self>, Fault> {
        let before = cluster.get(&patch).await?;
        let after = cluster.patch(&patch, true).await?;
        let (before, after) = (before.as_ref().map(yaml::render), Some(yaml::render(&after)));
        Ok((before != after).then_some(Self::Patch { patch, before, after }))
    }

    /// The deletion of an object; `None` if it is not there.
    ///
    /// # Errors
    /// When the kube-apiserver does not answer.
    pub(crate) async fn of_deleted(cluster: &Cluster, object: Value) -> Result<Option<Self>, Fault> {
        let before = cluster.get(&object).await?;
        Ok(before.map(|_| Self::Object { before: Some(yaml::render(&object)), after: None, object }))
    }

    fn name(&self) -> String {
        match self {
            Self::File { name, .. } => name.clone(),
            Self::Object { object, .. } | Self::Patch { patch: object, .. } => title(object),
        }
    }

    /// The change as a diff. The server's kubeconfig is named and not shown.
    pub(crate) fn show(&self) -> String {
        match self {
            Self::File { name, after: Some(_), .. } if name == SERVER_KUBECONFIG => {
                format!("+++ {name} (not shown: it has a key)\n")
            }
            Self::File { name, before: Some(before), after: Some(after), .. } => {
                let (before, after) = (ordered(name, before), ordered(name, after));
                diff(name, Some(&before), Some(&after))
            }
            Self::File { name, before, after, .. } => diff(name, before.as_deref(), after.as_deref()),
            Self::Object { before, after, .. } | Self::Patch { before, after, .. } => {
                diff(&self.name(), before.as_deref(), after.as_deref())
            }
        }
    }

    /// Makes the change. Safe to repeat.
    ///
    /// # Errors
    /// When it is refused.
    pub(crate) async fn make(&self, host: &Host, cluster: &Cluster) -> Result<(), Fault> {
        match self {
            Self::File { name, after: Some(text), mode, .. } => host.write(name, text, *mode)?,
            Self::File { name, after: None, .. } => host.remove(name)?,
            Self::Object { object, after: Some(_), .. } => drop(cluster.apply(object, false).await?),
            Self::Object { object, after: None, .. } => cluster.delete(object).await?,
            Self::Patch { patch, .. } => drop(cluster.patch(patch, false).await?),
        }
        let verb = match self {
            Self::File { after: Some(_), .. } => "wrote",
            Self::Object { after: Some(_), .. } => "applied",
            Self::Patch { .. } => "changed",
            Self::File { .. } | Self::Object { .. } => "removed",
        };
        say(&format!("{verb:8} {}", self.name()));
        Ok(())
    }
}

/// A manifest in the format in which this program writes it: a diff has no other order and no
/// comments then.
fn ordered(name: &str, text: &str) -> String {
    yaml::parse(name, text).map_or_else(|_| text.to_owned(), |value| yaml::render(&value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::SERVER;

    #[test]
    fn another_order_is_no_difference() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path());
        host.write(SERVER, "b: 1  # Comment.\na: [2]\n", 0o600).unwrap();
        let change = Change::of_file(&host, SERVER, Some("a:\n- 2\nb: 3\n"), 0o600).unwrap().unwrap();
        let lines: Vec<_> = change.show().lines().skip(3).map(str::to_owned).collect();
        assert_eq!(lines, [" a:", " - 2", "-b: 1", "+b: 3"]);
    }

    #[test]
    fn manifests_are_shown_and_keys_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path());
        let shown = |name| Change::of_file(&host, name, Some("text\n"), 0o600).unwrap().unwrap().show();
        assert!(shown(SERVER).contains("+text"), "{}", shown(SERVER));
        assert!(!shown(SERVER_KUBECONFIG).contains("text"), "{}", shown(SERVER_KUBECONFIG));
    }
}
