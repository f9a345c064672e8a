//! moto's server of S3's interface, from PyPI, with conditional puts.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::python;
use crate::support::everything_below;

/// A server with one bucket; it ends with this value.
pub struct Store {
    child: Child,
    port: u16,
}

impl Store {
    pub fn start() -> Option<Store> {
        let python = python::with("moto.server, flask", "moto[server]>=5.1")?;
        // Free a moment ago: nobody else on this machine asks for a port between.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let store = Store { child, port };
        let mut tries = 0;
        while store.put_bucket().is_err() {
            tries += 1;
            assert!(tries < 300, "the store does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(store)
    }

    fn put_bucket(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        let host = format!("127.0.0.1:{}", self.port);
        write!(
            stream,
            "PUT /bucket HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        match answer.starts_with("HTTP/1.1 200") {
            true => Ok(()),
            false => Err(std::io::Error::other(answer)),
        }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What a command finds in its environment.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
            ("AWS_REGION", "us-east-1".into()),
        ]
    }

    pub fn objects(&self) -> impl ObjectStore {
        AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_access_key_id("test")
            .with_secret_access_key("test")
            .with_region("us-east-1")
            .with_bucket_name("bucket")
            .build()
            .unwrap()
    }

    /// Puts everything below a folder into the bucket.
    pub async fn upload(&self, folder: &Path, to: &str) {
        let store = self.objects();
        for (path, bytes) in everything_below(folder) {
            let below = path.strip_prefix(folder).unwrap().to_str().unwrap();
            let at = object_store::path::Path::parse(format!("{to}/{below}")).unwrap();
            store.put(&at, bytes.into()).await.unwrap();
        }
    }

    /// Brings everything below a prefix into a folder, and takes away what is no longer there.
    pub async fn download(&self, from: &str, folder: &Path) {
        let store = self.objects();
        let prefix = object_store::path::Path::parse(from).unwrap();
        let objects: Vec<_> = store.list(Some(&prefix)).try_collect().await.unwrap();
        let mut there = BTreeSet::new();
        for object in objects {
            let below = object.location.as_ref().strip_prefix(from).unwrap().trim_start_matches('/');
            let place = folder.join(below);
            // What has the same name has the same content, save for what is small and replaced.
            let is_same = std::fs::metadata(&place).is_ok_and(|found| found.len() == object.size);
            if !is_same || place.extension().is_none_or(|ending| ending == "json") {
                std::fs::create_dir_all(place.parent().unwrap()).unwrap();
                let bytes = store.get(&object.location).await.unwrap().bytes().await.unwrap();
                std::fs::write(&place, bytes).unwrap();
            }
            there.insert(place);
        }
        if folder.exists() {
            let all = everything_below(folder).into_iter().map(|(path, _)| path);
            all.filter(|path| !there.contains(path)).for_each(|path| std::fs::remove_file(path).unwrap());
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
