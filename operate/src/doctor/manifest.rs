//! The kube-apiserver's static pod, as kubeadm writes it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// The parts of the pod that are checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) path: PathBuf,
    /// The minor version of the image's tag.
    pub(crate) minor: Option<u32>,
    flags: Vec<(String, String)>,
    mounts: Vec<Mount>,
}

/// A path of the host inside the container.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mount {
    inside: PathBuf,
    host: PathBuf,
}

#[derive(Deserialize)]
struct Pod {
    spec: Spec,
}

#[derive(Deserialize)]
struct Spec {
    containers: Vec<Container>,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    #[serde(default)]
    image: String,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    volume_mounts: Vec<VolumeMount>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeMount {
    name: String,
    mount_path: PathBuf,
    #[serde(default)]
    sub_path: PathBuf,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Volume {
    name: String,
    #[serde(default)]
    host_path: Option<HostPath>,
}

#[derive(Deserialize)]
struct HostPath {
    path: PathBuf,
}

impl Manifest {
    /// # Errors
    /// When the text is no pod with a kube-apiserver.
    pub(crate) fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let shown = path.display();
        let no_pod =
            |error: String| format!("{shown} is no pod: {}", error.lines().next().unwrap_or_default());
        // By way of a JSON value, of which there are readers already: those of YAML are large.
        let pod: Value = serde_saphyr::from_str(text).map_err(|error| no_pod(error.to_string()))?;
        let pod: Pod = serde_json::from_value(pod).map_err(|error| no_pod(error.to_string()))?;
        let is_it = |container: &&Container| {
            let program = container.command.first().or_else(|| container.args.first());
            program.is_some_and(|program| program.ends_with("kube-apiserver"))
        };
        let containers = &pod.spec.containers;
        let container = containers.iter().find(is_it).or_else(|| containers.first());
        let container = container.ok_or_else(|| format!("{shown} has no container"))?;
        let mounts = container.volume_mounts.iter().filter_map(|mount| {
            let volume = pod.spec.volumes.iter().find(|volume| volume.name == mount.name)?;
            let host = joined(&volume.host_path.as_ref()?.path, &mount.sub_path);
            Some(Mount { inside: mount.mount_path.clone(), host })
        });
        let words: Vec<_> = container.command.iter().chain(&container.args).cloned().collect();
        let tag = container.image.rsplit_once(":v1.").map(|(_, tag)| tag);
        let minor = tag.and_then(|tag| tag.split('.').next()).and_then(|minor| minor.parse().ok());
        Ok(Self { path: path.to_owned(), minor, flags: flags(&words), mounts: mounts.collect() })
    }

    /// The value of a flag, without its dashes; the last one counts.
    pub(crate) fn flag(&self, name: &str) -> Option<&str> {
        let found = self.flags.iter().rev().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// A path of the container on the host; `None` if no volume of the host contains it.
    pub(crate) fn on_host(&self, inside: &Path) -> Option<PathBuf> {
        let mount = self.mount(inside)?;
        let rest = inside.strip_prefix(&mount.inside).ok()?;
        Some(joined(&mount.host, rest))
    }

    /// A path itself is mounted, and not its directory.
    pub(crate) fn mounts_itself(&self, inside: &Path) -> bool {
        self.mount(inside).is_some_and(|mount| mount.inside == inside)
    }

    fn mount(&self, inside: &Path) -> Option<&Mount> {
        let within = self.mounts.iter().filter(|mount| inside.starts_with(&mount.inside));
        within.max_by_key(|mount| mount.inside.as_os_str().len())
    }
}

/// `Path::join` of nothing adds a slash, and a file with one does not open.
fn joined(path: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { path.to_owned() } else { path.join(rest) }
}

/// Flags as `--name=value`, `--name value` and `--name`.
fn flags(words: &[String]) -> Vec<(String, String)> {
    let mut flags = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let value = words.next_if(|next| !next.starts_with('-'));
                (flag, value.cloned().unwrap_or_default())
            }
        };
        flags.push((name.to_owned(), value));
    }
    flags
}
