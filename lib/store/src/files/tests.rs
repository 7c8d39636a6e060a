use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

/// A directory on a file system that supports files without names; some do not.
fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn content_mode_and_nothing_else() {
    let dir = dir();
    let path = dir.path().join("a/b/subnet.env");
    for content in ["one", "two"] {
        replace(&path, content.as_bytes()).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
    }
    assert_eq!((mode(&path), mode(&dir.path().join("a")), mode(&dir.path().join("a/b"))), (0o644, 0o755, 0o755));
    assert_eq!(names(&dir.path().join("a/b")), ["subnet.env"]);
}

#[test]
fn a_failure_names_the_object_and_leaves_nothing() {
    let dir = dir();
    std::fs::create_dir(dir.path().join("taken")).unwrap();
    let error = replace(&dir.path().join("taken"), b"x").unwrap_err().to_string();
    assert!(error.contains("taken: cannot replace"), "{error}");
    assert_eq!(names(dir.path()), ["taken"]);
    assert!(replace(Path::new("/proc/no/such"), b"x").is_err());
    std::fs::write(dir.path().join("file"), "").unwrap();
    let error = replace(&dir.path().join("file/below"), b"x").unwrap_err().to_string();
    assert!(error.contains("/file: cannot create"), "{error}");
}

#[test]
fn a_failure_to_write_names_the_file_itself() {
    let error = replace(Path::new("/dev/full/subnet.env"), b"x").unwrap_err().to_string();
    assert!(error.starts_with("/dev/full: cannot create"), "{error}");
    let error = replace(Path::new("/proc/subnet.env"), b"x").unwrap_err().to_string();
    assert!(error.starts_with("/proc/subnet.env: cannot create"), "no name of a draft: {error}");
}

#[test]
fn what_a_killed_writer_left_goes_and_nothing_else_does() {
    let dir = dir();
    for name in [".subnet.env.draft-0011", ".status.json.draft-0011", ".subnet.env.draft", "subnet.env.draft-1"] {
        std::fs::write(dir.path().join(name), "half").unwrap();
    }
    symlink("/nowhere", dir.path().join(".subnet.env.draft-link")).unwrap();
    replace(&dir.path().join("subnet.env"), b"whole").unwrap();
    assert_eq!(names(dir.path()), [".status.json.draft-0011", ".subnet.env.draft", "subnet.env", "subnet.env.draft-1"]);
}

#[test]
fn a_link_in_the_files_place_is_replaced_and_not_followed() {
    let dir = dir();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "root's").unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    symlink("secret", dir.path().join("status.json")).unwrap();
    replace(&dir.path().join("status.json"), b"{}").unwrap();
    assert_eq!((std::fs::read_to_string(&secret).unwrap().as_str(), mode(&secret)), ("root's", 0o600));
    assert!(dir.path().join("status.json").symlink_metadata().unwrap().is_file());
    // A link to a directory counts as a directory for those who write below it.
    std::fs::create_dir(dir.path().join("real")).unwrap();
    symlink("real", dir.path().join("link")).unwrap();
    replace(&dir.path().join("link/new/subnet.env"), b"x").unwrap();
    assert!(dir.path().join("real/new/subnet.env").exists());
}

#[test]
fn many_writers_of_one_file_leave_one_whole_content() {
    let dir = dir();
    let path = dir.path().join("status.json");
    let contents: Vec<String> = (0..8).map(|n| n.to_string().repeat(20_000)).collect();
    std::thread::scope(|scope| {
        for content in &contents {
            let path = &path;
            scope.spawn(move || (0..20).filter(|_| replace(path, content.as_bytes()).is_ok()).count());
        }
        for _ in 0..200 {
            let seen = std::fs::read_to_string(&path).unwrap_or_else(|_| contents[0].clone());
            assert!(contents.contains(&seen), "{} bytes", seen.len());
        }
    });
    assert_eq!(names(dir.path()), ["status.json"]);
}

#[test]
fn a_draft_takes_a_free_name_only() {
    let dir = dir();
    let path = dir.path().join("wgkey");
    for (content, kind) in [("first", None), ("second", Some(io::ErrorKind::AlreadyExists))] {
        let draft = Draft::new(dir.path(), &path, 0o400).unwrap();
        draft.fill(content.as_bytes()).unwrap();
        assert_eq!(draft.link().err().map(|error| error.kind()), kind);
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), mode(&path)), ("first", 0o400));
    }
    symlink("/nowhere", dir.path().join("link")).unwrap();
    let draft = Draft::new(dir.path(), &dir.path().join("link"), 0o400).unwrap();
    assert_eq!(draft.link().unwrap_err().kind(), io::ErrorKind::AlreadyExists, "a dangling link is a name, too");
    assert_eq!(names(dir.path()), ["link", "wgkey"]);
}

#[test]
fn where_files_need_names_the_same_holds() {
    let dir = dir();
    let path = dir.path().join("subnet.env");
    for content in ["one", "two"] {
        let draft = Draft::with_name(dir.path(), &path, READABLE).unwrap();
        draft.fill(content.as_bytes()).unwrap();
        assert_eq!(names(dir.path()).iter().filter(|name| name.starts_with(".subnet.env.draft-")).count(), 1);
        draft.replace().unwrap();
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), mode(&path)), (content, 0o644));
    }
    let draft = Draft::with_name(dir.path(), &path, READABLE).unwrap();
    assert_eq!(draft.link().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    drop(Draft::with_name(dir.path(), &path, READABLE).unwrap());
    assert_eq!(names(dir.path()), ["subnet.env"]);
}

#[test]
fn reading_ends_and_is_bounded() {
    let dir = dir();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("file"), "content").unwrap();
    std::fs::write(at("large"), vec![b'x'; 70_000]).unwrap();
    symlink("file", at("link")).unwrap();
    symlink("/dev/zero", at("zero")).unwrap();
    let fifo = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), fifo, 0o644.into(), 0).unwrap();
    symlink("fifo", at("to-fifo")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    let largest = 64 * 1024;
    assert_eq!(read_own(&at("file"), largest).unwrap(), b"content");
    assert_eq!(read_configured(&at("link"), largest).unwrap(), b"content");
    for name in ["link", "zero", "fifo", "to-fifo", "socket", "."] {
        let error = read_own(&at(name), largest).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
    }
    for name in ["zero", "fifo", "to-fifo", "socket"] {
        let error = read_configured(&at(name), largest).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{name}: {error}");
    }
    for read in [read_own, read_configured] {
        assert_eq!(read(&at("large"), largest).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
    assert_eq!(read_own(&at("none"), largest).unwrap_err().kind(), io::ErrorKind::NotFound);
}
