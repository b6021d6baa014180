//! A real SSH server: OpenSSH's, on a loopback port, with keys of its own.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = "/usr/sbin/sshd";

/// The server; it ends when this is dropped.
pub struct Sshd {
    pub dir: tempfile::TempDir,
    pub port: u16,
    child: Child,
}

fn keygen(path: &Path) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]).arg(path);
    assert!(command.status().unwrap().success());
}

impl Sshd {
    /// Starts it; `None`, with a word why, where the Debian package openssh-server is not installed.
    pub fn start() -> Option<Sshd> {
        if !Path::new(BINARY).exists() {
            println!("skipped: {BINARY} is not there; install Debian's openssh-server to run this test");
            return None;
        }
        let dir = tempfile::TempDir::new().unwrap();
        let root = dir.path();
        for name in ["host", "user", "stranger"] {
            keygen(&root.join(name));
        }
        std::fs::copy(root.join("user.pub"), root.join("authorized")).unwrap();
        std::fs::set_permissions(root.join("authorized"), std::fs::Permissions::from_mode(0o600)).unwrap();
        if rustix::process::geteuid().is_root() {
            // Where a server that root starts keeps apart what it does before it knows who comes.
            std::fs::create_dir_all("/run/sshd").unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let d = root.display();
        let conf = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {d}/host\nPidFile {d}/pid\nAuthorizedKeysFile {d}/authorized\n\
             StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n\
             Subsystem sftp internal-sftp\nMaxStartups 100\nMaxSessions 100\n"
        );
        std::fs::write(root.join("conf"), conf).unwrap();
        let log = std::fs::File::create(root.join("log")).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("-D").arg("-e").arg("-f").arg(root.join("conf"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let mut sshd = Sshd { dir, port, child };
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || std::fs::read_to_string(sshd.dir.path().join("log")).unwrap_or_default();
            assert!(sshd.child.try_wait().unwrap().is_none() && Instant::now() < until, "sshd: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(sshd)
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap()
    }

    /// The URL of a directory in the server's folder.
    pub fn url(&self, name: &str) -> String {
        format!("sftp://127.0.0.1:{}{}/{name}", self.port, self.dir.path().display())
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
