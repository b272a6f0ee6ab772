//! Files of a control plane node.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::fault::Fault;

/// Longest file that is read: manifests and kubeconfigs have a few kilobytes.
const MAX_FILE: u64 = 1024 * 1024;

/// Directory of static pods. The kubelet starts every file in it whose name does not begin
/// with a dot, so backups are elsewhere.
pub(crate) const MANIFESTS: &str = "/etc/kubernetes/manifests";

/// Directory of the egress configuration, the policy, the server's kubeconfig and the backups.
pub(crate) const DIRECTORY: &str = "/etc/kubernetes/tunnel";

pub(crate) const APISERVER: &str = "/etc/kubernetes/manifests/kube-apiserver.yaml";
pub(crate) const SERVER: &str = "/etc/kubernetes/manifests/tunnel-server.yaml";
pub(crate) const EGRESS: &str = "/etc/kubernetes/tunnel/egress.yaml";
pub(crate) const POLICY: &str = "/etc/kubernetes/tunnel/policy.yaml";
pub(crate) const SERVER_KUBECONFIG: &str = "/etc/kubernetes/tunnel/server.conf";
pub(crate) const APISERVER_CERTIFICATE: &str = "/etc/kubernetes/pki/apiserver.crt";

/// The file system of a node, below `root`.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    root: PathBuf,
}

impl Host {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.join(name.trim_start_matches('/'))
    }

    /// The text of a file, `None` if it does not exist.
    ///
    /// # Errors
    /// When it cannot be read, or is too large.
    pub(crate) fn read(&self, name: &str) -> Result<Option<String>, Fault> {
        let path = self.path(name);
        let failed = |error: io::Error| {
            Fault::new(format!("cannot read {name}: {error}"), "run this as root on a control plane node")
        };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
            Ok(meta) if meta.len() > MAX_FILE => return Err(failed(io::ErrorKind::FileTooLarge.into())),
            Ok(_) => {}
        }
        fs::read_to_string(&path).map(Some).map_err(failed)
    }

    /// Replaces a file as a whole: after a crash it has the old text or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, name: &str, text: &str, mode: u32) -> Result<(), Fault> {
        let failed = |error: io::Error| {
            Fault::new(format!("cannot write {name}: {error}"), "run this as root on a control plane node")
        };
        self.replace(&self.path(name), text, mode).map_err(failed)
    }

    fn replace(&self, path: &Path, text: &str, mode: u32) -> io::Result<()> {
        let (Some(directory), Some(file)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        fs::create_dir_all(directory)?;
        // The kubelet passes over names that begin with a dot.
        let staging = directory.join(format!(".{}.tunnel", file.to_string_lossy()));
        let _ = fs::remove_file(&staging);
        let mut written = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&staging)?;
        written.write_all(text.as_bytes())?;
        written.sync_all()?;
        fs::rename(&staging, path)?;
        // Without it a power cut may undo the rename.
        fs::File::open(directory)?.sync_all()
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Fault> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Fault::new(
                format!("cannot remove {name}: {error}"),
                "run this as root on a control plane node",
            )),
            _ => Ok(()),
        }
    }

    /// Removes a directory if it is there and empty.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove_empty(&self, name: &str) -> Result<(), Fault> {
        match fs::remove_dir(self.path(name)) {
            Err(error)
                if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) =>
            {
                Err(Fault::new(format!("cannot remove {name}: {error}"), format!("remove {name} by hand")))
            }
            _ => Ok(()),
        }
    }

    /// Removes a directory of ours with all that is in it.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove_directory(&self, name: &str) -> Result<(), Fault> {
        match fs::remove_dir_all(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Fault::new(format!("cannot remove {name}: {error}"), format!("remove {name} by hand")))
            }
            _ => Ok(()),
        }
    }

    /// Names of the static pods' manifests.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn manifests(&self) -> Result<Vec<String>, Fault> {
        let failed = |error: io::Error| {
            Fault::new(
                format!("cannot read {MANIFESTS}: {error}"),
                "run this as root on a control plane node",
            )
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(self.path(MANIFESTS)).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                names.push(format!("{MANIFESTS}/{name}"));
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Where the text of a file before the first change is kept.
pub(crate) fn backup_of(name: &str) -> String {
    format!("{DIRECTORY}/backup/{}", name.rsplit('/').next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path());
        assert_eq!(host.read(SERVER).unwrap(), None);
        host.write(SERVER, "one\n", 0o600).unwrap();
        // As after a crash in the middle of a replacement.
        fs::write(host.path("/etc/kubernetes/manifests/.tunnel-server.yaml.tunnel"), "half").unwrap();
        assert_eq!(host.manifests().unwrap(), [SERVER]);
        host.write(SERVER, "two\n", 0o644).unwrap();
        assert_eq!(host.read(SERVER).unwrap().as_deref(), Some("two\n"));
        assert_eq!(fs::metadata(host.path(SERVER)).unwrap().permissions().mode() & 0o777, 0o644);
        host.remove(SERVER).unwrap();
        host.remove(SERVER).unwrap();
        assert!(host.manifests().unwrap().is_empty());
    }

    #[test]
    fn backups_are_no_static_pods() {
        assert_eq!(backup_of(APISERVER), "/etc/kubernetes/tunnel/backup/kube-apiserver.yaml");
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path());
        host.write(EGRESS, &"x".repeat(2 * 1024 * 1024), 0o644).unwrap();
        assert!(host.read(EGRESS).unwrap_err().to_string().contains("too large"));
    }
}
