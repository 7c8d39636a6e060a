//! One call of a plugin, timed from before the process is created until it has ended and its answer is read.

use std::fs::{self, File};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use lab::wait::eventually;
use lab::{Doing, Error};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use rustix::process::{WaitOptions, wait};

/// Longer than any child of a plugin lives.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to run.
#[derive(Debug, Clone)]
pub struct Call {
    pub program: PathBuf,
    pub variables: Vec<(&'static str, String)>,
    pub stdin: String,
}

/// The outcome.
#[derive(Debug)]
pub struct Answer {
    pub took: Duration,
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
}

/// A process under way.
pub struct Running {
    child: Child,
    answer: PipeReader,
}

/// The cost of all processes that have ended and were waited for.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub cpu: Duration,
    pub faults: u64,
}

impl Call {
    /// Everything that a call needs except the process; none of this is timed.
    fn prepare(&self, stdout: impl Into<Stdio>) -> io::Result<Command> {
        let (input, mut write) = io::pipe()?;
        // The input fits into the pipe, so no writer must be woken.
        write.write_all(self.stdin.as_bytes())?;
        let mut command = Command::new(&self.program);
        command.env_clear().envs(self.variables.iter().map(|(key, value)| (key, value)));
        command.stdin(input).stdout(stdout).stderr(Stdio::null());
        Ok(command)
    }

    /// Runs it to its end.
    pub fn run(&self) -> io::Result<Answer> {
        let mut answers = race(std::slice::from_ref(self))?;
        answers.1.pop().ok_or_else(|| io::Error::other("no answer"))
    }
}

/// Starts all at once; gives the time until the last has ended, and the answers.
pub fn race(calls: &[Call]) -> io::Result<(Duration, Vec<Answer>)> {
    let mut prepared = Vec::with_capacity(calls.len());
    for call in calls {
        let (answer, stdout) = io::pipe()?;
        prepared.push((call.prepare(stdout)?, answer));
    }
    let mut running = Vec::with_capacity(calls.len());
    let mut answers = Vec::with_capacity(calls.len());
    let started = Instant::now();
    for (mut command, answer) in prepared {
        // posix_spawn, which returns at the exec
        running.push(Running { child: command.spawn()?, answer });
    }
    for mut process in running {
        let mut stdout = Vec::new();
        process.answer.read_to_end(&mut stdout)?;
        let status = process.child.wait()?;
        answers.push(Answer { took: started.elapsed(), status, stdout });
    }
    Ok((started.elapsed(), answers))
}

/// Waits for the children that a plugin has left running; this process is their subreaper.
pub fn settle() -> Result<(), Error> {
    eventually("every child process ends", PATIENCE, || {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => return Err("one still runs".to_owned()),
                Err(rustix::io::Errno::CHILD) => return Ok(()),
                Err(errno) => return Err(errno.to_string()),
            }
        }
    })
}

impl Cost {
    /// Up to now.
    pub fn so_far() -> Result<Self, Error> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).doing("read resource usage")?;
        let cpu = (usage.user_time() + usage.system_time()).num_microseconds();
        Ok(Self { cpu: Duration::from_micros(cpu as u64), faults: usage.minor_page_faults() as u64 })
    }

    /// Since `before`.
    pub fn since(self, before: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(before.cpu), faults: self.faults - before.faults }
    }
}

/// The peak memory (RSS, bytes) of the process of `call`. It is read while the process is blocked in its last step by
/// a full pipe: rusage would also count the memory of the process that forked.
pub fn peak(call: &Call) -> Result<u64, Error> {
    let what = || format!("measure the memory of {}", call.program.display());
    let (mut answer, mut stdout) = io::pipe().doing(what())?;
    let room = rustix::pipe::fcntl_getpipe_size(&stdout).doing(what())?;
    stdout.write_all(&vec![b' '; room]).doing(what())?;
    let mut child = call.prepare(stdout).and_then(|mut command| command.spawn()).doing(what())?;
    let proc = Path::new("/proc").join(child.id().to_string());
    let seen = eventually(format_args!("{} writes its answer", call.program.display()), PATIENCE, || {
        if writes_answer(&proc) { high_water(&proc).ok_or("no VmHWM") } else { Err("it does not yet") }
    });
    let mut text = Vec::new();
    answer.read_to_end(&mut text).doing(what())?;
    child.wait().doing(what())?;
    seen
}

/// Whether one of its threads waits in write(1, …): proc_pid_syscall(5).
fn writes_answer(proc: &Path) -> bool {
    const WRITE: &str = if cfg!(target_arch = "x86_64") { "1 0x1 " } else { "64 0x1 " };
    let threads = fs::read_dir(proc.join("task")).into_iter().flatten().flatten();
    let mut calls = threads.filter_map(|thread| fs::read_to_string(thread.path().join("syscall")).ok());
    calls.any(|call| call.starts_with(WRITE))
}

fn high_water(proc: &Path) -> Option<u64> {
    let status = fs::read_to_string(proc.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Writes the smallest possible program to `path`. It only exits, so its time is that of the measurement itself.
pub fn write_nothing(path: &Path) -> io::Result<()> {
    // mov $60,%eax; xor %edi,%edi; syscall: _exit(0)
    const CODE: [u8; 9] = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + CODE.len() as u64;
    // elf(5): ELFCLASS64, ELFDATA2LSB, EV_CURRENT; ET_EXEC, EM_X86_64, EV_CURRENT
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    // e_entry, e_phoff, e_shoff
    elf.extend([BASE + HEADERS, 64, 0].map(u64::to_le_bytes).concat());
    // e_flags; e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx
    elf.extend([0; 4]);
    elf.extend([64u16, 56, 1, 64, 0, 0].map(u16::to_le_bytes).concat());
    // PT_LOAD, PF_R | PF_X; p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
    elf.extend([1u32, 5].map(u32::to_le_bytes).concat());
    elf.extend([0, BASE, BASE, size, size, 0x1000].map(u64::to_le_bytes).concat());
    elf.extend(CODE);
    File::create(path)?.write_all(&elf)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}
