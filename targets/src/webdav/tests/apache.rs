//! A real WebDAV server: Apache with mod_dav over a folder, on a loopback port.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = "/usr/sbin/apache2";
const MODULES: &str = "/usr/lib/apache2/modules";
pub const USER: &str = "ann";
pub const PASSWORD: &str = "pass:word ü";

/// The server; it ends when this is dropped.
pub struct Apache {
    pub dir: tempfile::TempDir,
    pub port: u16,
    child: Child,
}

impl Apache {
    /// Starts it; `None`, with a word why, where the Debian package apache2 is not installed.
    pub fn start() -> Option<Apache> {
        if !Path::new(BINARY).exists() {
            println!("skipped: {BINARY} is not there; install Debian's apache2 to run this test");
            return None;
        }
        let dir = tempfile::TempDir::new().unwrap();
        let root = dir.path();
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755)).unwrap();
        let files = root.join("files");
        std::fs::create_dir(&files).unwrap();
        let mut password = Command::new("htpasswd");
        password.args(["-niB", "-C", "4", USER]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut made = password.spawn().unwrap();
        made.stdin.take().unwrap().write_all(PASSWORD.as_bytes()).unwrap();
        std::fs::write(root.join("users"), made.wait_with_output().unwrap().stdout).unwrap();
        let is_root = rustix::process::geteuid().is_root();
        if is_root {
            // A server that root starts works as this user.
            for path in [&files, root] {
                assert!(Command::new("chown").arg("www-data:www-data").arg(path).status().unwrap().success());
            }
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(root.join("conf"), conf(root, port, is_root)).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("-DFOREGROUND").arg("-f").arg(root.join("conf"));
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut apache = Apache { dir, port, child };
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || std::fs::read_to_string(apache.dir.path().join("error.log")).unwrap_or_default();
            assert!(apache.child.try_wait().unwrap().is_none() && Instant::now() < until, "apache: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(apache)
    }

    pub fn url(&self, folder: &str) -> String {
        format!("webdav+http://127.0.0.1:{}/{folder}", self.port)
    }
}

impl Drop for Apache {
    fn drop(&mut self) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            // Its workers go with it.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

fn conf(root: &Path, port: u16, is_root: bool) -> String {
    let dir = root.display();
    let mut out = format!(
        "ServerRoot {dir}\nServerName localhost\nListen 127.0.0.1:{port}\nPidFile {dir}/pid\nErrorLog {dir}/error.log\n\
         DavLockDB {dir}/files.lock\nMutex sem\n"
    );
    let modules = ["mpm_event", "authn_core", "authz_core", "authz_user", "authn_file", "auth_basic", "dav", "dav_fs"];
    for name in modules {
        out += &format!("LoadModule {name}_module {MODULES}/mod_{name}.so\n");
    }
    if is_root {
        out += "User www-data\nGroup www-data\n";
    }
    out + &format!(
        "DocumentRoot {dir}/files\n<Directory {dir}/files>\nDav On\nAuthType Basic\nAuthName test\n\
         AuthUserFile {dir}/users\nRequire valid-user\n</Directory>\n"
    )
}
