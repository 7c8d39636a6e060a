//! The cache of ADD's results for CHECK, DEL and GC. It has libcni's layout, so that either library can take over.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use gojson::{Json, JsonError};
use serde::Deserialize;

use super::{Attachment, NetworkList};
use crate::error::Error;
use crate::quote;
use crate::result::{AddResult, ResultError};

/// The `kind` of a cache file.
const KIND: &str = "cniCacheV1";

/// Why a cached result cannot be kept or used.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The file system refused an operation.
    #[error("failed to {operation} the cached result {}: {source}", path.display())]
    Io {
        /// The operation, such as "write".
        operation: &'static str,
        /// The cache file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file is not JSON.
    #[error("the cached result {} is damaged: {source}", path.display())]
    Json {
        /// The cache file.
        path: PathBuf,
        /// The parser's error.
        source: JsonError,
    },
    /// The file is JSON, but not a result.
    #[error("the cached result {} is damaged: {source}", path.display())]
    Result {
        /// The cache file.
        path: PathBuf,
        /// What is wrong with the result.
        source: ResultError,
    },
    /// The list's version cannot express the result.
    #[error("failed to set network {} cached result: {source}", quote(network))]
    Convert {
        /// The network's `name`.
        network: String,
        /// The reason, such as "cannot convert: no valid IP addresses".
        source: Error,
    },
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cached {
    kind: String,
    #[serde(rename = "containerId")]
    container_id: String,
    #[serde(rename = "ifName")]
    ifname: String,
    #[serde(rename = "networkName")]
    network: String,
    netns: String,
    #[serde(rename = "cniArgs")]
    args: Vec<(String, String)>,
    #[serde(rename = "capabilityArgs")]
    capability_args: BTreeMap<String, Json>,
    result: Json,
}

/// `<dir>/results/<network>-<container>-<ifname>`.
pub(super) struct Cache<'a> {
    dir: &'a Path,
}

impl<'a> Cache<'a> {
    pub(super) fn new(dir: &'a Path) -> Self {
        Self { dir }
    }

    fn file(&self, network: &str, attachment: &Attachment) -> PathBuf {
        let Attachment { container_id, ifname, .. } = attachment;
        self.dir.join("results").join(format!("{network}-{container_id}-{ifname}"))
    }

    /// Writes the whole file or nothing, with mode 0600.
    pub(super) fn store(
        &self,
        list: &NetworkList,
        attachment: &Attachment,
        result: &AddResult,
    ) -> Result<(), CacheError> {
        let convert = |source| CacheError::Convert { network: list.name.clone(), source };
        let text = document(list, attachment, result.to_json(list.version).map_err(convert)?);
        let path = self.file(&list.name, attachment);
        write_whole(self.dir, &path, text.as_bytes()).map_err(|source| CacheError::Io {
            operation: "write",
            path,
            source,
        })
    }

    /// Returns `None` if there is no file. Also reads files of old versions of libcni, which contain only the result.
    pub(super) fn load(&self, list: &NetworkList, attachment: &Attachment) -> Result<Option<AddResult>, CacheError> {
        let path = self.file(&list.name, attachment);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(CacheError::Io { operation: "read", path, source }),
        };
        let document = Json::parse(&bytes).map_err(|source| CacheError::Json { path: path.clone(), source })?;
        let result = match document.decode::<Cached>() {
            Ok(cached) if cached.kind == KIND && cached.result == Json::Null => return Ok(None),
            Ok(cached) if cached.kind == KIND => cached.result,
            _ => document,
        };
        AddResult::parse(result.compact().as_bytes(), list.version)
            .map(Some)
            .map_err(|source| CacheError::Result { path, source })
    }

    /// Succeeds if there is no file.
    pub(super) fn remove(&self, network: &str, attachment: &Attachment) -> Result<(), CacheError> {
        let path = self.file(network, attachment);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(CacheError::Io { operation: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// The attachments of a network, by file name. Skips a file that does not name its attachment.
    pub(super) fn attachments(&self, network: &str) -> Result<Vec<Attachment>, CacheError> {
        let path = self.dir.join("results");
        let failed = |source| CacheError::Io { operation: "list", path: path.clone(), source };
        let entries = match fs::read_dir(&path) {
            Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut paths = Vec::new();
        for entry in entries {
            paths.push(entry.map_err(failed)?.path());
        }
        paths.sort();
        let cached = paths.iter().filter_map(|path| gojson::decode::<Cached>(&fs::read(path).ok()?).ok());
        Ok(cached.filter(|c| c.kind == KIND && c.network == network).map(Attachment::from).collect())
    }
}

impl From<Cached> for Attachment {
    fn from(cached: Cached) -> Self {
        Self {
            container_id: cached.container_id,
            netns: cached.netns,
            ifname: cached.ifname,
            args: cached.args,
            capability_args: cached.capability_args,
        }
    }
}

fn document(list: &NetworkList, attachment: &Attachment, result: Json) -> String {
    let mut members = vec![
        ("kind", Json::from(KIND)),
        ("containerId", attachment.container_id.as_str().into()),
        ("config", list.bytes.as_slice().into()),
        ("ifName", attachment.ifname.as_str().into()),
        ("networkName", list.name.as_str().into()),
    ];
    if !attachment.netns.is_empty() {
        members.push(("netns", attachment.netns.as_str().into()));
    }
    if !attachment.args.is_empty() {
        let pair = |(key, value): &(String, String)| Json::from(vec![key.as_str().into(), value.as_str().into()]);
        members.push(("cniArgs", attachment.args.iter().map(pair).collect::<Vec<_>>().into()));
    }
    if !attachment.capability_args.is_empty() {
        let all = attachment.capability_args.iter().map(|(key, value)| (key.as_str(), value.sorted()));
        members.push(("capabilityArgs", all.collect()));
    }
    members.push(("result", result.sorted()));
    Json::from_iter(members).compact()
}

/// Uses a temporary file beside `results`: libcni takes every file inside it for an attachment.
fn write_whole(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir.join("results"))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let written = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&temporary, path));
    written.inspect_err(|_| {
        // it fails if the file was never created
        let _ = fs::remove_file(&temporary);
    })
}
