//! Network configuration lists, as `/etc/cni/net.d` has them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fs, io};

use gojson::{Json, JsonError};
use serde::Deserialize;

use crate::conf::check_network_name;
use crate::error::Error;
use crate::quote;
use crate::version::{UnknownVersion, Version};

/// A network with its plugins, in the order in which they run.
#[derive(Debug, Clone)]
pub struct NetworkList {
    /// The network's `name`: letters, digits, `_`, `.`, `-`.
    pub name: String,
    /// The highest known version among `cniVersion` and `cniVersions`. Every plugin gets this one.
    pub version: Version,
    /// `disableCheck`: CHECK succeeds and calls no plugin.
    pub disable_check: bool,
    /// `disableGC`: GC succeeds and calls no plugin.
    pub disable_gc: bool,
    /// `loadOnlyInlinedPlugins`: plugins in files beside the list are not read.
    pub load_only_inlined_plugins: bool,
    /// The plugins. A list that is loaded from a directory has at least one.
    pub plugins: Vec<PluginConf>,
    /// The document as it was read.
    pub bytes: Vec<u8>,
}

/// One plugin of a list.
#[derive(Debug, Clone)]
pub struct PluginConf {
    /// `type`, the executable's name.
    pub kind: String,
    /// The capabilities that the plugin declares. For each, it wants the runtime's value in `runtimeConfig`.
    pub capabilities: BTreeMap<String, bool>,
    /// The plugin's whole object.
    pub conf: Json,
}

/// Why a list cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// The document is not JSON, or a member has the wrong type.
    #[error("error parsing configuration list: {0}")]
    Json(#[from] JsonError),
    /// `name` is missing or invalid.
    #[error("error parsing configuration list: {0}")]
    Name(#[source] Error),
    /// None of the versions is known here.
    #[error("error parsing configuration list: {0}")]
    Version(#[from] UnknownVersion),
    /// The value is neither a boolean nor the text of one.
    #[error("error parsing configuration list: invalid value {value} for {key}")]
    Bool {
        /// The member, such as `disableCheck`.
        key: &'static str,
        /// The value as compact JSON.
        value: String,
    },
    /// There is no plugin in the document or beside it.
    #[error("error parsing configuration list: no plugins in list")]
    NoPlugins,
    /// A plugin has the wrong shape or no `type`.
    #[error("failed to parse plugin config {index}: error parsing configuration: {}",
        match cause { Some(cause) => cause.to_string(), None => "missing 'type'".to_owned() })]
    Plugin {
        /// The plugin's place in the list, from 0.
        index: usize,
        /// The parser's error; `None` if `type` is missing.
        #[source]
        cause: Option<JsonError>,
    },
    /// A file or directory cannot be read.
    #[error("error reading {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A file contains one of the errors above.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong in the file.
        source: Box<ListError>,
    },
    /// No file of the directory defines the network.
    #[error("no net configuration with name {} in {}", quote(name), dir.display())]
    NotFound {
        /// The network's name.
        name: String,
        /// The directory that was searched.
        dir: PathBuf,
    },
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListDoc {
    name: String,
    #[serde(rename = "cniVersion")]
    version: String,
    #[serde(rename = "cniVersions")]
    versions: Option<Vec<String>>,
    #[serde(rename = "disableCheck")]
    disable_check: Json,
    #[serde(rename = "disableGC")]
    disable_gc: Json,
    #[serde(rename = "loadOnlyInlinedPlugins")]
    load_only_inlined_plugins: Json,
    plugins: Option<Vec<Json>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PluginDoc {
    #[serde(rename = "type")]
    kind: String,
    capabilities: BTreeMap<String, bool>,
    name: String,
    #[serde(rename = "cniVersion")]
    version: String,
}

impl NetworkList {
    /// Reads a list. `plugins` may be absent: the plugins are then in files beside the list.
    pub fn parse(bytes: &[u8]) -> Result<Self, ListError> {
        let doc: ListDoc = gojson::decode(bytes)?;
        check_network_name(&doc.name).map_err(ListError::Name)?;
        let load_only_inlined_plugins = truth("loadOnlyInlinedPlugins", &doc.load_only_inlined_plugins)?;
        let plugins = match doc.plugins {
            Some(plugins) if plugins.is_empty() => return Err(ListError::NoPlugins),
            None if load_only_inlined_plugins => return Err(ListError::NoPlugins),
            plugins => plugins.unwrap_or_default(),
        };
        Ok(Self {
            version: pick(&doc.version, doc.versions)?,
            disable_check: truth("disableCheck", &doc.disable_check)?,
            disable_gc: truth("disableGC", &doc.disable_gc)?,
            load_only_inlined_plugins,
            plugins: plugins.into_iter().enumerate().map(|(i, p)| PluginConf::read(i, p)).collect::<Result<_, _>>()?,
            name: doc.name,
            bytes: bytes.to_owned(),
        })
    }

    /// Reads a single plugin's configuration as a list of one.
    pub fn parse_single(bytes: &[u8]) -> Result<Self, ListError> {
        let tree = Json::parse(bytes)?;
        let doc: PluginDoc = tree.decode()?;
        let members = [
            ("cniVersion", Json::from(doc.version)),
            ("name", Json::from(doc.name)),
            ("plugins", Json::from(vec![tree.sorted()])),
        ];
        Self::parse(Json::from_iter(members).compact().as_bytes())
    }

    /// Reads a file. A `.conflist` is a list with the plugins beside it (`<directory>/<network>/*.conf`). Any other
    /// file is a single plugin.
    pub fn load(path: &Path) -> Result<Self, ListError> {
        let inside = |source: ListError| ListError::File { path: path.to_owned(), source: Box::new(source) };
        let bytes = read(path)?;
        if path.extension().is_none_or(|e| e != "conflist") {
            return Self::parse_single(&bytes).map_err(inside);
        }
        let mut list = Self::parse(&bytes).map_err(inside)?;
        if !list.load_only_inlined_plugins {
            let dir = path.parent().unwrap_or(Path::new(".")).join(&list.name);
            for file in files(&dir, &["conf"])? {
                let inside = |source| ListError::File { path: file.clone(), source: Box::new(source) };
                let conf = Json::parse(&read(&file)?).map_err(|e| inside(e.into()))?;
                list.plugins.push(PluginConf::read(list.plugins.len(), conf).map_err(inside)?);
            }
        }
        if list.plugins.is_empty() { Err(inside(ListError::NoPlugins)) } else { Ok(list) }
    }

    /// All networks of a directory in a runtime's order: `*.conflist` by name, then `*.conf` and `*.json` by name. Each
    /// invalid file is an error in the list. A missing directory has no networks.
    pub fn load_dir(dir: &Path) -> Result<Vec<Result<Self, ListError>>, ListError> {
        let mut paths = files(dir, &["conflist"])?;
        paths.extend(files(dir, &["conf", "json"])?);
        Ok(paths.iter().map(|path| Self::load(path)).collect())
    }

    /// The first network of that name. An invalid file is an error only if no other file defines the network.
    pub fn find(dir: &Path, name: &str) -> Result<Self, ListError> {
        let mut broken = None;
        for list in Self::load_dir(dir)? {
            match list {
                Ok(list) if list.name == name => return Ok(list),
                Ok(_) => {}
                Err(error) => broken = broken.or(Some(error)),
            }
        }
        Err(broken.unwrap_or_else(|| ListError::NotFound { name: name.to_owned(), dir: dir.to_owned() }))
    }
}

impl PluginConf {
    fn read(index: usize, conf: Json) -> Result<Self, ListError> {
        let doc: PluginDoc = conf.decode().map_err(|cause| ListError::Plugin { index, cause: Some(cause) })?;
        if doc.kind.is_empty() {
            return Err(ListError::Plugin { index, cause: None });
        }
        Ok(Self { kind: doc.kind, capabilities: doc.capabilities, conf })
    }
}

/// The highest version that is known here.
fn pick(version: &str, versions: Option<Vec<String>>) -> Result<Version, ListError> {
    let versions = versions.unwrap_or_default();
    let known = versions.iter().filter(|v| !v.is_empty()).filter_map(|v| v.parse::<Version>().ok()).max();
    match (known, version.parse::<Version>()) {
        (Some(known), Ok(own)) => Ok(known.max(own)),
        (Some(known), Err(_)) => Ok(known),
        (None, own) => Ok(own?),
    }
}

/// A boolean, or the text of one in any case.
fn truth(key: &'static str, value: &Json) -> Result<bool, ListError> {
    match value {
        Json::Null => Ok(false),
        Json::Bool(b) => Ok(*b),
        Json::String(s) if s.eq_ignore_ascii_case("true") => Ok(true),
        Json::String(s) if s.eq_ignore_ascii_case("false") => Ok(false),
        other => Err(ListError::Bool { key, value: other.to_string() }),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ListError> {
    fs::read(path).map_err(|source| ListError::Io { path: path.to_owned(), source })
}

/// Files with one of the extensions, by name. A missing directory has none.
fn files(dir: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, ListError> {
    let failed = |source| ListError::Io { path: dir.to_owned(), source };
    let entries = match fs::read_dir(dir) {
        Err(absent) if absent.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) && !path.is_dir() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}
