//! A small disk for logs, which can be filled. Unmounted when dropped.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// Room for the logs of a run many times over, and for its last words.
const SIZE: &str = "size=16m";

/// Bytes per write that fills the disk: its block, so that none is left.
const BLOCK: usize = 4096;

#[derive(Debug)]
pub(crate) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// Mounts it. Namespaces that `ip netns exec` makes later see it.
    pub(crate) fn mount(path: &Path) -> anyhow::Result<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(path);
        anyhow::ensure!(mount.status().context("mount")?.success(), "no disk at {}", path.display());
        Ok(Self { path: path.to_owned() })
    }

    /// Fills it.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        let mut file = File::create(self.filler())?;
        loop {
            match file.write_all(&[0; BLOCK]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Makes room again.
    pub(crate) fn free(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.filler())?)
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a program that was just killed may still have its log open.
        let unmounted = Command::new("umount").arg("-l").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            measuring_kit::complain(&format!("{} stays mounted", self.path.display()));
        }
    }
}
