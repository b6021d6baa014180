//! A bucket as a store of parts: a sector is one multipart upload, or one put if it is short.

use async_trait::async_trait;
use bytes::Bytes;

use super::client::Client;
use super::lock::Keep;
use super::{incoming_key, sector_key};
use crate::errors::{Op, TargetError};
use crate::net::parts::{Part, PartStore, Which};

fn sector(which: Which) -> String {
    sector_key(which.alias, which.copy)
}

fn note(which: Which) -> String {
    incoming_key(which.alias, which.copy)
}

#[async_trait]
impl PartStore for Client {
    fn url(&self) -> &str {
        Client::url(self)
    }

    async fn sealed_len(&self, op: Op, which: Which) -> Result<Option<u64>, TargetError> {
        self.len(op, &which.incoming(), &sector(which)).await
    }

    async fn get_note(&self, op: Op, which: Which, limit: u64) -> Result<Option<Bytes>, TargetError> {
        match self.get_plain(op, &which.incoming(), &note(which), limit).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn put_note(&self, op: Op, which: Which, bytes: Bytes) -> Result<(), TargetError> {
        self.put(op, &which.incoming(), &note(which), bytes, Keep::Plain).await
    }

    async fn remove_note(&self, op: Op, which: Which) -> Result<(), TargetError> {
        self.delete(op, &which.incoming(), &note(which)).await
    }

    async fn begin(&self, which: Which) -> Result<String, TargetError> {
        self.begin_upload(&which.incoming(), &sector(which)).await
    }

    async fn held(&self, op: Op, which: Which, upload: &str) -> Result<Option<Vec<Part>>, TargetError> {
        self.parts(op, &which.incoming(), &sector(which), upload).await
    }

    async fn put_part(&self, which: Which, upload: &str, index: u64, bytes: Bytes) -> Result<Part, TargetError> {
        Client::put_part(self, &which.incoming(), &sector(which), upload, index, bytes).await
    }

    async fn finish(&self, which: Which, upload: &str, parts: Vec<Part>, _: u64) -> Result<(), TargetError> {
        let tags = parts.into_iter().map(|p| p.tag).collect();
        self.complete(&which.incoming(), &sector(which), upload, tags).await
    }

    async fn put_whole(&self, which: Which, bytes: Bytes) -> Result<(), TargetError> {
        self.put(Op::Seal, &which.incoming(), &sector(which), bytes, Keep::Locked).await
    }

    async fn throw_away(&self, op: Op, which: Which, upload: &str) -> Result<(), TargetError> {
        self.abort(op, &which.incoming(), &sector(which), upload).await
    }
}
