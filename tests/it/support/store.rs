//! Servers of object stores' interfaces, with conditional puts: moto's of Amazon's, from PyPI, and Azurite's of
//! Azure's, from npm.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::{ObjectStore, ObjectStoreExt};

use super::folder::everything_below;
use super::packages;

/// A server with one bucket; it ends with this value.
pub struct Store {
    child: Child,
    port: u16,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Amazon,
    Azure,
}

/// The key that Azurite's documentation gives for its one account.
const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Makes a container, with a request signed as Azure's documentation of "Shared Key" says.
const MAKE_CONTAINER: &str = r#"
const [port, name, key] = process.argv.slice(1);
const account = "devstoreaccount1";
const date = new Date().toUTCString();
const signed = "PUT" + "\n".repeat(12) +
  `x-ms-date:${date}\nx-ms-version:2021-08-06\n/${account}/${account}/${name}\nrestype:container`;
const hmac = require("crypto").createHmac("sha256", Buffer.from(key, "base64"));
const headers = {
  "x-ms-date": date, "x-ms-version": "2021-08-06", "content-length": 0,
  authorization: `SharedKey ${account}:${hmac.update(signed).digest("base64")}`,
};
const path = `/${account}/${name}?restype=container`;
require("http").request({ port, host: "127.0.0.1", method: "PUT", path, headers },
  (answer) => process.exit(answer.statusCode === 201 ? 0 : 1)).on("error", () => process.exit(1)).end();
"#;

impl Store {
    /// Azurite with one container.
    pub fn azure() -> Option<Store> {
        let azurite = packages::of_npm("azurite", "azurite@3")?;
        let port = free_port();
        let child = Command::new("node")
            .arg(azurite.join("dist/src/blob/main.js"))
            .args(["--silent", "--disableTelemetry", "--inMemoryPersistence", "--skipApiVersionCheck"])
            .args(["--blobPort", &port.to_string()])
            .current_dir(std::env::temp_dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let store = Store { child, port, kind: Kind::Azure };
        store.wait(|store| {
            let port = store.port.to_string();
            let made =
                Command::new("node").args(["-e", MAKE_CONTAINER, &port, "bucket", AZURITE_KEY]).status()?;
            if made.success() { Ok(()) } else { Err(std::io::Error::other(made.to_string())) }
        });
        Some(store)
    }

    /// moto with one bucket.
    pub fn start() -> Option<Store> {
        let python = packages::of_pypi("moto.server, flask", "moto[server]>=5.1")?;
        let port = free_port();
        let child = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let store = Store { child, port, kind: Kind::Amazon };
        store.wait(Store::put_bucket);
        Some(store)
    }

    fn wait(&self, is_there: impl Fn(&Store) -> std::io::Result<()>) {
        let mut tries = 0;
        while is_there(self).is_err() {
            tries += 1;
            assert!(tries < 1_200, "the store does not answer");
            std::thread::sleep(Duration::from_millis(100));
        }
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
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        if self.kind == Kind::Azure {
            return vec![
                ("AZURE_STORAGE_USE_EMULATOR", "true".into()),
                ("AZURITE_BLOB_STORAGE_URL", self.endpoint()),
            ];
        }
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
            ("AWS_REGION", "us-east-1".into()),
        ]
    }

    /// A URL of a place in the store.
    pub fn url(&self, place: &str) -> String {
        let scheme = if self.kind == Kind::Azure { "az" } else { "s3" };
        format!("{scheme}://bucket/{place}")
    }

    pub fn objects(&self) -> Box<dyn ObjectStore> {
        if self.kind == Kind::Azure {
            let azure = MicrosoftAzureBuilder::new()
                .with_account("devstoreaccount1")
                .with_access_key(AZURITE_KEY)
                .with_endpoint(format!("{}/devstoreaccount1", self.endpoint()))
                .with_allow_http(true)
                .with_container_name("bucket");
            return Box::new(azure.build().unwrap());
        }
        let amazon = AmazonS3Builder::new()
            .with_endpoint(self.endpoint())
            .with_allow_http(true)
            .with_access_key_id("test")
            .with_secret_access_key("test")
            .with_region("us-east-1")
            .with_bucket_name("bucket");
        Box::new(amazon.build().unwrap())
    }

    /// Puts everything below a folder into the bucket.
    pub async fn upload(&self, folder: &Path, to: &str) {
        let store = self.objects();
        let put = everything_below(folder).into_iter().map(|(path, bytes)| {
            let below = path.strip_prefix(folder).unwrap().to_str().unwrap();
            let at = object_store::path::Path::parse(format!("{to}/{below}")).unwrap();
            let store = &store;
            async move { store.put(&at, bytes.into()).await.unwrap() }
        });
        stream::iter(put).buffer_unordered(8).collect::<Vec<_>>().await;
    }

    /// Removes every object below a place.
    pub async fn remove(&self, from: &str) {
        let store = self.objects();
        let prefix = object_store::path::Path::parse(from).unwrap();
        let objects: Vec<_> = store.list(Some(&prefix)).try_collect().await.unwrap();
        for object in objects {
            store.delete(&object.location).await.unwrap();
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
                let bytes = match store.get(&object.location).await {
                    // It was removed since it was listed.
                    Err(object_store::Error::NotFound { .. }) => continue,
                    found => found.unwrap().bytes().await.unwrap(),
                };
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

/// Free a moment ago: nobody else on this machine asks for a port between.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
