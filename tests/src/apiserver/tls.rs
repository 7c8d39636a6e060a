//! Certificates for tests, made by the program `openssl`, and a server's identity of them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

type Failure = Box<dyn std::error::Error>;

/// A folder with an authority: `ca.pem` and `ca.key`.
#[derive(Debug, Clone)]
pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// Makes a new authority in `dir`, which may hold an older one.
    ///
    /// # Errors
    /// `openssl` fails.
    pub fn make(dir: &Path, name: &str) -> Result<Self, Failure> {
        fs::create_dir_all(dir)?;
        let authority = Self { dir: dir.to_owned() };
        authority.request(name, "ca", &["-x509", "-days", "2", "-out", "ca.pem"])?;
        Ok(authority)
    }

    /// The authority's certificate, for clients.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The authority's key.
    pub fn key(&self) -> PathBuf {
        self.dir.join("ca.key")
    }

    /// Makes `NAME.pem` and `NAME.key` for a server with these addresses and names.
    ///
    /// # Errors
    /// `openssl` fails.
    pub fn sign(&self, name: &str, alternatives: &[&str]) -> Result<(PathBuf, PathBuf), Failure> {
        let names = alternatives.iter().map(|name| match name.parse::<std::net::IpAddr>() {
            Ok(_) => format!("IP:{name}"),
            Err(_) => format!("DNS:{name}"),
        });
        let names = names.collect::<Vec<_>>().join(",");
        fs::write(self.dir.join("extensions"), format!("subjectAltName={names}\nextendedKeyUsage=serverAuth\n"))?;
        let (request, certificate) = (format!("{name}.csr"), format!("{name}.pem"));
        self.request(name, name, &["-out", &request])?;
        let sign = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions"];
        self.openssl(&[&["x509", "-req", "-in", &request, "-out", &certificate], &sign[..]].concat())?;
        Ok((self.dir.join(certificate), self.dir.join(format!("{name}.key"))))
    }

    fn request(&self, subject: &str, file: &str, more: &[&str]) -> Result<(), Failure> {
        let (subject, key) = (format!("/CN={subject}"), format!("{file}.key"));
        let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        self.openssl(&[&new[..], &["-subj", &subject, "-keyout", &key], more].concat())
    }

    fn openssl(&self, args: &[&str]) -> Result<(), Failure> {
        let output = Command::new("openssl").args(args).current_dir(&self.dir).output()?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("openssl {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr)).into()),
        }
    }
}

/// A server's identity of a certificate and its key.
///
/// # Errors
/// A file cannot be read, or the two do not fit.
pub fn identity((certificate, key): &(PathBuf, PathBuf)) -> io::Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(certificate).map_err(io::Error::other)?;
    let chain: Vec<_> = chain.collect::<Result<_, _>>().map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(io::Error::other)?;
    let config = config.with_no_client_auth().with_single_cert(chain, key).map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
