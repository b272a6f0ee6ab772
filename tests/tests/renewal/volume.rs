//! A directory as the kubelet fills it from a Secret: links to files in `..data`, which is a link that
//! is replaced as a whole.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

pub(crate) struct Volume {
    dir: PathBuf,
    number: usize,
}

impl Volume {
    pub(crate) fn new(dir: &Path, files: &[(&str, &str)]) -> Self {
        std::fs::create_dir(dir).unwrap();
        for (name, _) in files {
            symlink(format!("..data/{name}"), dir.join(name)).unwrap();
        }
        let mut volume = Self { dir: dir.to_owned(), number: 0 };
        volume.put(files);
        volume
    }

    /// Replaces all files.
    pub(crate) fn put(&mut self, files: &[(&str, &str)]) {
        let name = |number| format!("..{number}");
        let old = self.dir.join(name(self.number));
        self.number += 1;
        std::fs::create_dir(self.dir.join(name(self.number))).unwrap();
        for (file, text) in files {
            std::fs::write(self.dir.join(name(self.number)).join(file), text).unwrap();
        }
        symlink(name(self.number), self.dir.join("..data_tmp")).unwrap();
        std::fs::rename(self.dir.join("..data_tmp"), self.dir.join("..data")).unwrap();
        if old.exists() {
            std::fs::remove_dir_all(old).unwrap();
        }
    }
}
