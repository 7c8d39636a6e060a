//! Runs the extension backend's commands without a shell. The daemon runs no other program.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use overlay::backend::extension::Command as Words;
use overlay::words::expand;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

use crate::flags::Environment;

/// The time limit of a command.
pub const LIMIT: Duration = Duration::from_secs(30);
/// The most bytes that are read of a command's output.
const OUTPUT: u64 = 64 * 1024;
/// The most characters of the output in an error.
const SHOWN: usize = 400;

/// The input of a command besides its words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Input {
    /// Variables, for the words and for the environment.
    pub variables: Vec<(&'static str, String)>,
    /// The standard input.
    pub stdin: String,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The first word is empty, for instance because its variable is not set.
    #[error("the command's first word is empty: is a variable not set?")]
    Nothing,
    /// The program cannot be started.
    #[error("{program}: cannot be run: {source}{}", hint(source))]
    Start {
        /// The command's first word.
        program: String,
        /// The operating system's error.
        source: io::Error,
    },
    /// The command ended with an error.
    #[error("{program}: {status}{}", said(output))]
    Failed {
        /// The command's first word.
        program: String,
        /// The exit status.
        status: ExitStatus,
        /// The command's output.
        output: String,
    },
    /// The command exceeded the time limit and was killed.
    #[error("{program}: killed after {} s{}", limit.as_secs(), said(output))]
    TooLong {
        /// The command's first word.
        program: String,
        /// The time limit.
        limit: Duration,
        /// The command's output up to then.
        output: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => " (no shell reads it: pipes, `;` and built-in commands need `sh -c '…'`)",
        io::ErrorKind::PermissionDenied => " (is it executable?)",
        _ => "",
    }
}

fn said(output: &str) -> String {
    let start = output.char_indices().rev().nth(SHOWN).map_or(0, |(at, _)| at);
    let lines: Vec<&str> = output[start..].lines().collect();
    if output.is_empty() { String::new() } else { format!(": {}", lines.join(" | ")) }
}

/// The words after variables are replaced. A variable comes from the input, or else from the daemon's environment.
fn words(command: &Words, input: &Input, environment: &Environment) -> Vec<String> {
    let value = |name: &str| {
        let given = input.variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
        given.or_else(|| environment.0.get(name).cloned())
    };
    command.words.iter().map(|word| expand(word, value)).collect()
}

/// Runs a command to its end. Returns its standard output and error together, without white space around them.
///
/// Input and output are files in memory. So the command never waits for the daemon to read or write, and a background
/// process that it leaves running does not keep the daemon waiting.
///
/// # Errors
/// The command cannot be started, ends with an error, or takes longer than `limit`.
pub async fn run(
    command: &Words,
    input: &Input,
    environment: &Environment,
    limit: Duration,
) -> Result<String, CommandError> {
    let words = words(command, input, environment);
    let program = words.first().filter(|word| !word.is_empty()).ok_or(CommandError::Nothing)?.clone();
    let start = |source| CommandError::Start { program: program.clone(), source };
    let stdin = in_memory(input.stdin.as_bytes()).map_err(start)?;
    let output = in_memory(&[]).map_err(start)?;
    let (stdout, stderr) = (output.try_clone().map_err(start)?, output.try_clone().map_err(start)?);
    let mut child = Command::new(&program)
        .args(&words[1..])
        .envs(input.variables.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(stdout))
        .stderr(Stdio::from(stderr))
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let ended = tokio::time::timeout(limit, child.wait()).await;
    if ended.is_err() {
        // also kills what it has started; it fails if the command has just ended
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
        let _ = child.wait().await;
    }
    let output = read(output);
    match ended {
        Err(_) => Err(CommandError::TooLong { program, limit, output }),
        Ok(Err(source)) => Err(CommandError::Start { program, source }),
        Ok(Ok(status)) if status.success() => Ok(output),
        Ok(Ok(status)) => Err(CommandError::Failed { program, status, output }),
    }
}

fn in_memory(content: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create("flanneld", MemfdFlags::CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file)
}

fn read(mut file: File) -> String {
    let mut bytes = Vec::new();
    // a file in memory can always be read
    let _ = file.rewind().and_then(|()| file.take(OUTPUT).read_to_end(&mut bytes));
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use overlay::words::split;

    fn command(text: &str) -> Words {
        Words { words: split(text).unwrap() }
    }

    async fn ran(text: &str, input: &Input) -> Result<String, String> {
        let environment = Environment([("HOST".to_owned(), "here".to_owned())].into());
        run(&command(text), input, &environment, Duration::from_secs(10)).await.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn words_variables_input_and_both_outputs() {
        let input = Input { variables: vec![("SUBNET", "10.5.2.0/24".into())], stdin: "data\n".into() };
        assert_eq!(ran("echo $SUBNET '$SUBNET' ${HOST} $NONE.", &input).await.unwrap(), "10.5.2.0/24 $SUBNET here .");
        assert_eq!(ran("cat", &input).await.unwrap(), "data");
        assert_eq!(ran(r#"sh -c 'echo "out $SUBNET"; echo err >&2'"#, &input).await.unwrap(), "out 10.5.2.0/24\nerr");
        let hostile = Input { variables: vec![("SUBNET", "x; echo owned".into())], stdin: String::new() };
        assert_eq!(ran("echo $SUBNET", &hostile).await.unwrap(), "x; echo owned", "one word, and no shell");
    }

    #[tokio::test]
    async fn however_large_nobody_waits_for_the_other() {
        let input = Input { variables: vec![], stdin: "x".repeat(1 << 20) };
        assert_eq!(ran("true", &input).await.unwrap(), "", "it need not read");
        assert_eq!(ran("wc -c", &input).await.unwrap(), "1048576");
        assert_eq!(ran("cat", &input).await.unwrap().len(), OUTPUT as usize);
        let left = ran("sh -c 'sleep 100 & echo $!'", &input).await.unwrap();
        let left = Pid::from_raw(left.parse().unwrap()).unwrap();
        rustix::process::kill_process(left, Signal::KILL).expect("it still runs");
    }

    #[tokio::test]
    async fn failures_say_what_failed_and_why() {
        let nothing = Input::default();
        assert_eq!(ran("$NONE", &nothing).await.unwrap_err(), CommandError::Nothing.to_string());
        let error = ran("no-such-program", &nothing).await.unwrap_err();
        assert!(error.starts_with("no-such-program: cannot be run: ") && error.contains("sh -c"), "{error}");
        let error = ran("sh -c 'echo one; echo two >&2; exit 3'", &nothing).await.unwrap_err();
        assert_eq!(error, "sh: exit status: 3: one | two");
        let error = ran(&format!("sh -c 'echo {}; exit 1'", "y".repeat(5000)), &nothing).await.unwrap_err();
        assert!(error.len() < 600, "{error}");
    }

    #[tokio::test]
    async fn one_that_does_not_end_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let (pid, text) = (dir.path().join("pid"), "sh -c 'sleep 1000 & echo $! > $FILE; echo begun; wait'");
        let input = Input { variables: vec![("FILE", pid.display().to_string())], stdin: String::new() };
        // the single quotes keep the variables for the shell
        let outcome = run(&command(text), &input, &Environment::default(), Duration::from_millis(300)).await;
        let error = outcome.unwrap_err().to_string();
        assert!(error.contains("killed after 0 s: begun"), "{error}");
        let child = std::fs::read_to_string(&pid).unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{}/stat", child.trim())) {
            // nobody has collected it yet
            Ok(stat) if stat.contains(") Z ") => Ok(()),
            Ok(stat) => Err(stat),
            Err(_) => Ok(()),
        };
        lab::wait::eventually("the child is gone", Duration::from_secs(5), gone).unwrap();
    }
}
