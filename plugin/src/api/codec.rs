//! A tonic codec of rust-protobuf messages, so that gRPC and ttrpc share one set of message types.

use std::fmt;
use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use protobuf::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Encodes `T` and decodes `U`.
pub struct ProtobufCodec<T, U>(PhantomData<fn() -> (T, U)>);

impl<T, U> Default for ProtobufCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> fmt::Debug for ProtobufCodec<T, U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProtobufCodec")
    }
}

impl<T: Message, U: Message> Codec for ProtobufCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = MessageEncoder<T>;
    type Decoder = MessageDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        MessageEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        MessageDecoder(PhantomData)
    }
}

/// Writes one message into tonic's buffer.
#[derive(Debug)]
pub struct MessageEncoder<T>(PhantomData<fn() -> T>);

impl<T: Message> Encoder for MessageEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = item.write_to_bytes().map_err(|e| Status::internal(format!("encode message: {e}")))?;
        dst.put_slice(&bytes);
        Ok(())
    }
}

/// Reads one message from tonic's buffer.
#[derive(Debug)]
pub struct MessageDecoder<U>(PhantomData<fn() -> U>);

impl<U: Message> Decoder for MessageDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let bytes = src.copy_to_bytes(src.remaining());
        U::parse_from_bytes(&bytes)
            .map(Some)
            .map_err(|e| Status::invalid_argument(format!("decode message: {e}")))
    }
}
