//! Certificates for servers of tests, by openssl.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// A certification authority in a directory of its own.
pub struct Authority(TempDir);

impl Authority {
    pub fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        openssl(
            &directory,
            "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
        );
        Self(directory)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A certificate for this machine, `server.pem`, and its key, `server.key`.
    pub fn certify(&self, name: &str) {
        std::fs::write(self.file("names"), format!("subjectAltName={name}")).expect("a write");
        openssl(
            &self.0,
            "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=server",
        );
        openssl(
            &self.0,
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
        );
    }
}

/// `refusal_of` has a daemon that trusts this authority meet a server that has its certificate, and says why it
/// doesn't take it.
pub fn another_name_is_refused(refusal_of: impl Fn(&Authority) -> String) {
    let authority = Authority::new();
    authority.certify("DNS:elsewhere");
    let problem = refusal_of(&authority);
    assert!(problem.contains("not valid for name"), "{problem}");
}

/// See [`another_name_is_refused`].
pub fn an_authority_s_own_is_refused(refusal_of: impl Fn(&Authority) -> String) {
    let authority = Authority::new();
    for (own, shown) in [("ca.pem", "server.pem"), ("ca.key", "server.key")] {
        std::fs::copy(authority.file(own), authority.file(shown)).expect("a copy");
    }
    let problem = refusal_of(&authority);
    assert!(problem.contains("CaUsedAsEndEntity"), "{problem}");
    assert!(
        problem.contains("one of its own with CA:FALSE"),
        "{problem}"
    );
}

fn openssl(directory: &TempDir, arguments: &str) {
    let output = Command::new("openssl")
        .args(arguments.split(' '))
        .current_dir(directory.path())
        .output()
        .expect("openssl");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments}: {said}");
}
