//! The start of a plugin with standard descriptors that are closed, or that lead to nobody.

use std::fs;
use std::io::pipe;
use std::process::{Command, Stdio};

use kernel::Kernel;
use lab::netns::Room;
use serde_json::{Value, json};
use tests::harness::Outcome;

use crate::bridge::{links, records, with};
use crate::call::{Answer, Caller, Pod, Whose};

/// All calls that give a descriptor, and those that write to one.
const CALLS: &str =
    "trace=execve,open,openat,socket,dup,dup2,fcntl,pipe2,write,pwrite64,sendto,sendmsg,vfork,fork,clone";

fn conf(caller: &Caller) -> Value {
    with(&caller.gateway(), json!({ "ipMasq": true, "ipMasqBackend": "nftables", "macspoofchk": true }))
}

/// Links of the host besides the bridge, reservations, records.
fn left(caller: &Caller) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let mut left = links(&mut Kernel::open()?);
    left.retain(|link| link != "cni0");
    left.extend(caller.reserved("net"));
    left.extend(records("net"));
    Ok(left)
}

/// An ADD whose shell closes descriptors before it executes the plugin, under strace with `more` arguments. What the
/// plugin called is in the caller's folder.
fn closed(caller: &Caller, pod: &Pod, closed: &str, more: &[&str]) -> Answer {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-e", CALLS, "-o"]).arg(caller.files.path().join("log")).args(more);
    strace.args(["--", "sh", "-c", &format!("exec \"$0\" {closed}")]);
    Answer::from(caller.under(strace, "ADD", pod, &conf(caller)))
}

/// The calls of the plugin itself: behind those of the shell.
fn calls(caller: &Caller) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let log = fs::read_to_string(caller.files.path().join("log"))?;
    let lines: Vec<&str> = log.lines().collect();
    let start = lines.iter().rposition(|line| line.contains("execve(")).ok_or("the plugin was not started")?;
    Ok(lines[start + 1..].iter().map(|line| (*line).to_owned()).collect())
}

/// The descriptors that a line of strace says were opened.
fn opened(line: &str) -> Vec<i32> {
    let call = line.split_once(' ').map_or(line, |(_, call)| call.trim_start());
    let opens = ["open(", "openat(", "socket(", "dup("].iter().any(|name| call.starts_with(name));
    // the loader's files are closed again before the program begins
    let numbers = match call.strip_prefix("pipe2([") {
        Some(pair) => pair.split(']').next().unwrap_or_default(),
        None if opens && !call.contains(".so") => call.rsplit_once(" = ").map_or("", |(_, result)| result),
        None => "",
    };
    numbers.split([',', ' ']).filter_map(|number| number.parse().ok()).collect()
}

/// No file or socket gets the number of a standard descriptor that was closed, and all that is written to one of them is
/// the answer or a line of text.
pub fn a_closed_descriptor_is_never_anothers() -> Outcome {
    for which in ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
        let caller = Caller::new(Whose::Ours);
        let room = Room::create("pod")?;
        let pod = Pod::of(&room, "cid");
        let answer = closed(&caller, &pod, which, &[]);
        let lines = calls(&caller)?;
        assert!(lines.iter().flat_map(|line| opened(line)).count() > 0, "{which}: {lines:#?}");
        for line in lines.iter().filter(|line| opened(line).iter().any(|fd| (0..=2).contains(fd))) {
            assert!(line.contains("\"/dev/null\""), "{which}: {line}");
        }
        let succeeds = which == "2>&-";
        assert_eq!(answer.status, i32::from(!succeeds), "{which}: {answer:?}");
        if succeeds {
            caller.call("DEL", &pod, &conf(&caller)).ok();
        } else if !which.contains(" >&-") && !which.starts_with(">&-") {
            assert!(answer.error().contains("error reading from stdin"), "{which}: {answer:?}");
        }
        assert_eq!(left(&caller)?, Vec::<String>::new(), "{which}: {answer:?}");
        room.remove()?;
    }
    Ok(())
}

/// Where nothing can take the place of a closed descriptor the plugin does not begin.
pub fn without_dev_null_nothing_is_done() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let more = ["-P", "/dev/null", "-e", "inject=open,openat:error=EACCES"];
    let answer = closed(&caller, &Pod::of(&room, "cid"), ">&-", &more);
    assert_eq!((answer.status, answer.stdout.as_str()), (1, ""), "{answer:?}");
    assert!(format!("{answer:?}").contains("/dev/null: Permission denied"), "{answer:?}");
    assert_eq!(links(&mut Kernel::open()?), Vec::<String>::new());
    assert_eq!(left(&caller)?, Vec::<String>::new());
    Ok(())
}

/// The runtime has gone: no signal ends the plugin, which takes back what it did.
pub fn an_answer_into_a_broken_pipe_is_undone() -> Outcome {
    let caller = Caller::new(Whose::Ours);
    let room = Room::create("pod")?;
    let pod = Pod::of(&room, "cid");
    let (reader, writer) = pipe()?;
    drop(reader);
    let (netns, path) = (pod.netns.display().to_string(), caller.bin().display().to_string());
    let mut plugin = Command::new(caller.bin().join("bridge"));
    plugin.envs([("CNI_COMMAND", "ADD"), ("CNI_CONTAINERID", pod.id), ("CNI_IFNAME", pod.ifname)]);
    plugin.envs([("CNI_NETNS", netns.as_str()), ("CNI_PATH", path.as_str())]);
    let mut child = plugin.stdin(Stdio::piped()).stdout(writer).stderr(Stdio::piped()).spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    std::io::Write::write_all(&mut stdin, conf(&caller).to_string().as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{}: {said}", output.status);
    assert!(said.contains("the answer cannot be written to stdout: Broken pipe"), "{said}");
    assert_eq!(left(&caller)?, Vec::<String>::new());
    Ok(())
}
