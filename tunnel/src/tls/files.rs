//! The files of a TLS configuration, and the configuration that was last made of them.
//!
//! Certificate with key, authorities, and revocation lists are three parts. Each is renewed alone, so
//! a bad file of one part keeps no good file of another one from use.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::RootCertStore;
use rustls::pki_types::CertificateRevocationListDer;

use super::renewed::{Renewed, lists};
use super::{Authorities, Identity, TlsError, load_roots};

/// The files of a TLS configuration, each named by its flag without dashes. An empty path is no
/// file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The own certificate and its chain.
    pub cert: (&'static str, PathBuf),
    /// Its key.
    pub key: (&'static str, PathBuf),
    /// Authorities of peers.
    pub authorities: (&'static str, PathBuf),
    /// Revocation lists of the authorities.
    pub revoked: (&'static str, PathBuf),
}

/// A part of a configuration that is renewed alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Certificate and key.
    Identity,
    /// Authorities.
    Authorities,
    /// Revocation lists.
    Revoked,
}

/// A part that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{flags}")]
pub struct Unreadable {
    flags: String,
    #[source]
    why: TlsError,
}

/// The contents of the files.
#[derive(Debug, Clone, Default)]
struct Material {
    identity: Option<Arc<Identity>>,
    roots: Option<Arc<RootCertStore>>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

type Builder<T> = dyn Fn(Option<&Identity>, Option<&Authorities>) -> Result<T, TlsError> + Send + Sync;
type Build<T> = Arc<Builder<T>>;

/// A configuration that is made of files. Clones share it.
pub struct Kept<T> {
    files: Arc<TlsFiles>,
    material: Arc<Mutex<Material>>,
    build: Build<T>,
    now: Renewed<T>,
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        let Self { files, material, build, now } = self;
        let (files, material, build) = (Arc::clone(files), Arc::clone(material), Arc::clone(build));
        Self { files, material, build, now: now.clone() }
    }
}

impl<T> fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("files", &self.files).finish_non_exhaustive()
    }
}

impl<T> Kept<T> {
    /// Reads all files, and makes the configuration with `build`.
    ///
    /// # Errors
    /// When a file cannot be used.
    pub fn read(
        files: TlsFiles,
        build: impl Fn(Option<&Identity>, Option<&Authorities>) -> Result<T, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, Unreadable> {
        let mut material = Material::default();
        let identity = format!("--{}, --{}", files.cert.0, files.key.0);
        for (part, flag, _) in files.parts() {
            let flags = if part == Part::Identity { identity.clone() } else { format!("--{flag}") };
            material.read(part, &files).map_err(|why| Unreadable { flags, why })?;
        }
        let build: Build<T> = Arc::new(build);
        let first = material.build(&*build).map_err(|why| Unreadable { flags: identity, why })?;
        let material = Arc::new(Mutex::new(material));
        Ok(Self { files: Arc::new(files), material, build, now: Renewed::new(first) })
    }

    /// The configuration in use.
    pub const fn now(&self) -> &Renewed<T> {
        &self.now
    }

    /// The files.
    pub fn files(&self) -> &TlsFiles {
        &self.files
    }

    /// Reads the files of a part again, and puts a new configuration in use. Blocks.
    ///
    /// # Errors
    /// When a file cannot be used; the configuration stays as it is.
    pub fn renew(&self, part: Part) -> Result<(), TlsError> {
        // A renewal that panics leaves the material as it was.
        let mut material = self.material.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = material.clone();
        next.read(part, &self.files)?;
        self.now.set(next.build(&*self.build)?);
        *material = next;
        Ok(())
    }
}

impl TlsFiles {
    /// The parts that have files, each with its flag.
    pub fn parts(&self) -> Vec<(Part, &'static str, Vec<PathBuf>)> {
        let (cert, authorities, revoked) = (&self.cert, &self.authorities, &self.revoked);
        let all = [
            (Part::Identity, cert.0, vec![cert.1.clone(), self.key.1.clone()]),
            (Part::Authorities, authorities.0, vec![authorities.1.clone()]),
            (Part::Revoked, revoked.0, vec![revoked.1.clone()]),
        ];
        all.into_iter().filter(|(_, _, paths)| paths.iter().all(|path| is_given(path))).collect()
    }
}

fn is_given(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

impl Material {
    fn read(&mut self, part: Part, files: &TlsFiles) -> Result<(), TlsError> {
        match part {
            Part::Identity => self.identity = Some(Arc::new(Identity::load(&files.cert.1, &files.key.1)?)),
            Part::Authorities => self.roots = Some(load_roots(&files.authorities.1)?),
            Part::Revoked => self.revoked = lists(&files.revoked.1)?,
        }
        Ok(())
    }

    fn build<T>(&self, build: &Builder<T>) -> Result<T, TlsError> {
        let revoked = self.revoked.clone();
        let authorities = self.roots.clone().map(|roots| Authorities { roots, revoked });
        build(self.identity.as_deref(), authorities.as_ref())
    }
}
