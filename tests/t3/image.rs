//! An image with nothing but a static busybox, as an OCI archive.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Failure, Outcome};

/// Debian's busybox-static.
pub const BUSYBOX: &str = "/bin/busybox";
/// The image's name. It has no registry.
pub const NAME: &str = "localhost/pause:1";

/// Size of a block of a tar file, bytes.
const BLOCK: usize = 512;

/// Writes the archive.
pub fn write(archive: &Path) -> Outcome {
    let layer = layer()?;
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Entrypoint": [BUSYBOX, "sleep", "1000000"] },
        "rootfs": { "type": "layers", "diff_ids": [digest(&layer)] },
    });
    let config = config.to_string().into_bytes();
    let described = |kind: &str, blob: &[u8]| {
        let media = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": media, "digest": digest(blob), "size": blob.len() })
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described("config.v1+json", &config),
        "layers": [described("layer.v1.tar", &layer)],
    });
    let manifest = manifest.to_string().into_bytes();
    let mut entry: Value = described("manifest.v1+json", &manifest);
    entry["annotations"] = json!({ "io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": NAME });
    let index = json!({ "schemaVersion": 2, "manifests": [entry] });
    let mut tar = Tar::default();
    tar.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644);
    tar.file("index.json", index.to_string().as_bytes(), 0o644);
    for blob in [&layer, &config, &manifest] {
        tar.file(&digest(blob).replace("sha256:", "blobs/sha256/"), blob, 0o644);
    }
    Ok(std::fs::write(archive, tar.finish())?)
}

/// The root file system.
fn layer() -> Result<Vec<u8>, Failure> {
    let mut tar = Tar::default();
    for folder in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
        tar.folder(folder);
    }
    tar.file(BUSYBOX.trim_start_matches('/'), &std::fs::read(BUSYBOX)?, 0o755);
    tar.file("etc/passwd", b"root:x:0:0:root:/:/bin/busybox\n", 0o644);
    Ok(tar.finish())
}

/// The name of this machine's architecture in images.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn digest(blob: &[u8]) -> String {
    let hex: String = Sha256::digest(blob).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A tar file: ustar (POSIX.1-1988).
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn folder(&mut self, name: &str) {
        self.header(&format!("{name}/"), 0, 0o755, b'5');
    }

    fn file(&mut self, name: &str, content: &[u8], mode: u32) {
        self.header(name, content.len(), mode, b'0');
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
    }

    fn header(&mut self, name: &str, size: usize, mode: u32, kind: u8) {
        let mut block = [0_u8; BLOCK];
        let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}\0{:07o}\0{:07o}\0{size:011o}\0{:011o}\0", 0, 0, 0).as_bytes());
        // the sum counts itself as spaces
        put(148, b"        ");
        put(156, &[kind]);
        put(257, b"ustar\x0000");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}
