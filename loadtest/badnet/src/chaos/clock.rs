//! The clocks of some programs, which jump while the machine's does not: libfaketime, if it is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest time until programs see a jump: libfaketime looks into its file once a second.
pub(crate) const SEEN: Duration = Duration::from_millis(1200);

/// Debian's file for programs with threads, in a directory of each architecture.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

#[derive(Debug)]
pub(crate) struct Clock {
    library: PathBuf,
    /// Its content is the distance to the machine's clock.
    file: PathBuf,
}

impl Clock {
    /// A clock that is right at first; `None` without the library.
    pub(crate) fn find(dir: &Path) -> anyhow::Result<Option<Self>> {
        let places = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        let Some(library) = places.map(|place| place.path().join(LIBRARY)).find(|path| path.exists()) else {
            return Ok(None);
        };
        let clock = Self { library, file: dir.join("clock") };
        clock.jump("+0")?;
        Ok(Some(clock))
    }

    /// Gives a program this clock. Timers go on by the machine's monotonic one.
    pub(crate) fn give(&self, command: &mut Command) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.file)
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
    }

    /// Sets the distance to the machine's clock, such as `-1h`.
    pub(crate) fn jump(&self, distance: &str) -> anyhow::Result<()> {
        let unfinished = self.file.with_extension("new");
        fs::write(&unfinished, format!("{distance}\n"))?;
        Ok(fs::rename(&unfinished, &self.file)?)
    }
}
