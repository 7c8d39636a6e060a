//! This host's WireGuard keys, in upstream's file, which is created if it is missing. The key is kept as long as the
//! file, so a restart does not affect the peers.

use std::io;
use std::path::{Path, PathBuf};

use kernel::state::{NotAKey, PublicKey, Secret};
use overlay::backend::WireguardKeys;
use x25519_dalek::{X25519_BASEPOINT_BYTES, x25519};

use store::files::{Draft, FileError, at, dir_of, make_dirs, read_configured, sweep};

/// Upstream's path; WIREGUARD_KEY_FILE sets another.
pub const DEFAULT: &str = "/run/flannel/wgkey";

/// The file mode, as upstream's.
const SECRET: u32 = 0o400;

/// A key has 44 bytes; a larger file is not a key.
const LARGEST: u64 = 1024;

/// Why this host has no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// A file operation failed.
    #[error("wireguard key: {0}")]
    File(#[from] FileError),
    /// The file does not contain a key. The message does not show the content.
    #[error("wireguard key: {}: {source}; delete it, and flanneld makes a new one", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: NotAKey,
    },
    /// The kernel gives no random bytes.
    #[error("wireguard key: the kernel gives no random bytes: {0}")]
    Random(#[source] io::Error),
}

/// Reads the keys in the file at `path`, which is created if it is missing.
pub fn load(path: &Path) -> Result<WireguardKeys, KeyFileError> {
    // The draft of a killed daemon contains a secret.
    sweep(path);
    let text = match read_configured(path, LARGEST) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(path)?,
        read => read.map_err(at("read", path))?,
    };
    let secret: Secret = String::from_utf8_lossy(&text)
        .trim()
        .parse()
        .map_err(|source| KeyFileError::NotAKey { path: path.to_owned(), source })?;
    let private = clamped(secret.0);
    Ok(WireguardKeys { private: Secret(private), public: PublicKey(x25519(private, X25519_BASEPOINT_BYTES)) })
}

/// Clamps 32 bytes as the kernel does (`curve25519_clamp_secret`, include/crypto/curve25519.h; RFC 7748 §5).
fn clamped(mut bytes: [u8; 32]) -> [u8; 32] {
    bytes[0] &= 0b1111_1000;
    bytes[31] = bytes[31] & 0b0111_1111 | 0b0100_0000;
    bytes
}

/// Creates a key file, complete before it has its name. If another daemon was faster, returns that daemon's key.
fn make(path: &Path) -> Result<Vec<u8>, KeyFileError> {
    let mut bytes = [0; 32];
    random(&mut bytes).map_err(KeyFileError::Random)?;
    let text = Secret(clamped(bytes)).reveal();
    let dir = dir_of(path);
    make_dirs(dir)?;
    let draft = Draft::new(dir, path, SECRET)?;
    draft.fill(text.as_bytes())?;
    match draft.link() {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Ok(read_configured(path, LARGEST).map_err(at("read", path))?)
        }
        linked => Ok(linked.map(|()| text.into_bytes()).map_err(at("create", path))?),
    }
}

fn random(bytes: &mut [u8; 32]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// RFC 7748 §6.1: Alice's pair.
    const ALICE: &str = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=";
    const ALICE_PUBLIC: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

    #[test]
    fn the_public_key_is_the_curves() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wgkey");
        for text in [ALICE.to_owned(), format!("{ALICE}\n")] {
            fs::write(&path, text).unwrap();
            let keys = load(&path).unwrap();
            assert_eq!(keys.public.to_string(), ALICE_PUBLIC);
            assert_eq!((keys.private.0[0] & 7, keys.private.0[31] >> 6), (0, 1), "as the kernel keeps it");
        }
    }

    #[test]
    fn a_key_is_made_once_and_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flannel/wgkey");
        let first = load(&path).unwrap();
        assert_eq!(load(&path).unwrap(), first);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!((text.len(), text.parse::<Secret>().unwrap()), (44, first.private));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        assert_ne!(load(&dir.path().join("other")).unwrap().public, first.public);
        assert!(!format!("{first:?}").contains(&text));
    }

    #[test]
    fn what_is_no_key_is_said_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("wgkey");
        fs::write(&path, "half-a-secret").unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(error.contains("wgkey: not a key") && error.contains("delete it"), "{error}");
        assert!(!error.contains("half-a-secret"), "{error}");
        let error = load(&dir.path().join("wgkey/below")).unwrap_err().to_string();
        assert!(error.contains("cannot read"), "{error}");
    }
}
