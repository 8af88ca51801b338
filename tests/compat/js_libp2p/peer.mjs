// A js-libp2p node for the muxer's compatibility tests: TCP, noise and yamux, nothing of ours.
//
//   node peer.mjs                prints its address, answers /echo until standard input ends
//   node peer.mjs ADDRESS JOB    dials, does one job, prints "ok"; JOB is echo, bulk or many
//
// With SWARM_KEY, the path of a file, it is in that private network.

import { readFileSync } from 'node:fs'
import { noise } from '@libp2p/noise'
import { preSharedKey } from '@libp2p/pnet'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const ECHO = '/echo'
const MIB = 1 << 20
const MANY = 300

const [address, job] = process.argv.slice(2)
const key = process.env.SWARM_KEY

const node = await createLibp2p({
  addresses: { listen: address == null ? ['/ip4/127.0.0.1/tcp/0'] : [] },
  transports: [tcp()],
  connectionEncrypters: [noise()],
  connectionProtector: key == null ? undefined : preSharedKey({ psk: readFileSync(key), timeout: 20000 }),
  streamMuxers: [yamux()],
  connectionMonitor: { enabled: false }
})

async function send (stream, bytes) {
  if (!stream.send(bytes)) {
    await stream.onDrain()
  }
}

await node.handle(ECHO, async (stream) => {
  for await (const bytes of stream) {
    await send(stream, bytes)
  }
  await stream.close()
}, { maxInboundStreams: 1000, maxOutboundStreams: 1000 })

// Byte i of stream number n, so that a byte that is lost, doubled or strayed is seen.
function piece (offset, length, number) {
  const made = new Uint8Array(length)
  for (let i = 0; i < length; i++) {
    made[i] = ((offset + i) * 7 + number) % 251
  }
  return made
}

async function exchange (connection, size, number) {
  const stream = await connection.newStream(ECHO, { maxOutboundStreams: 1000 })
  const sending = (async () => {
    for (let at = 0; at < size; at += 65536) {
      await send(stream, piece(at, Math.min(65536, size - at), number))
    }
    await stream.close()
  })()
  let got = 0
  for await (const list of stream) {
    const bytes = list.subarray()
    if (Buffer.compare(bytes, piece(got, bytes.byteLength, number)) !== 0) {
      throw new Error(`stream ${number} differs in the ${bytes.byteLength} bytes after ${got}`)
    }
    got += bytes.byteLength
  }
  await sending
  if (got !== size) {
    throw new Error(`stream ${number} returned ${got} of ${size} bytes`)
  }
}

if (address == null) {
  console.log(node.getMultiaddrs()[0].toString())
  process.stdin.resume()
  await new Promise((resolve) => process.stdin.on('end', resolve))
} else {
  const connection = await node.dial(multiaddr(address))
  if (job === 'echo') {
    await exchange(connection, 1000, 1)
  } else if (job === 'bulk') {
    await exchange(connection, 64 * MIB, 2)
  } else {
    await Promise.all(Array.from({ length: MANY }, (_, i) => exchange(connection, 2000, i)))
  }
  console.log('ok')
}
await node.stop()
process.exit(0)
