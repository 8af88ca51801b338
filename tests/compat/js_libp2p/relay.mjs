// js-libp2p nodes for the relays' compatibility tests: its circuit relay v2, nothing of ours.
//
//   node relay.mjs relay            is a relay until standard input ends; prints its address
//   node relay.mjs home RELAY       takes a place at RELAY and answers /echo there until standard
//                                   input ends; prints the address that leads to it
//   node relay.mjs call ADDRESS...  dials each; prints a line of JSON of each: who answered, how
//                                   many bytes came back from /echo, or what else it says of itself

import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'

const ECHO = '/echo'
const PING = '/ipfs/ping/1.0.0'
const SIZE = 300000 // more than one window of a stream
const THROUGH = { runOnLimitedConnection: true } // what is limited is any circuit with a bound

const [role, ...addresses] = process.argv.slice(2)

const listen = {
  relay: ['/ip4/127.0.0.1/tcp/0'],
  home: addresses.map((address) => `${address}/p2p-circuit`),
  call: []
}
const node = await createLibp2p({
  addresses: { listen: listen[role] },
  transports: [tcp(), circuitRelayTransport()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: {
    identify: identify(),
    ping: ping(),
    ...(role === 'relay' ? { relay: circuitRelayServer() } : {})
  },
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
}, THROUGH)

// The number of bytes that came back as they went; an error when one differs.
async function echoed (connection, protocol, size) {
  const stream = await connection.newStream(protocol, THROUGH)
  const body = Uint8Array.from({ length: size }, (_, i) => (i * 7) % 251)
  const sending = (async () => {
    await send(stream, body)
    await stream.close()
  })()
  let got = 0
  for await (const list of stream) {
    const bytes = list.subarray()
    if (Buffer.compare(bytes, body.subarray(got, got + bytes.byteLength)) !== 0) {
      throw new Error(`the ${bytes.byteLength} bytes after ${got} differ`)
    }
    got += bytes.byteLength
  }
  await sending
  return got
}

// What a peer says of itself: js-libp2p asks each new connection once, and not twice at a time.
const identified = new Map()
node.addEventListener('peer:identify', ({ detail }) => identified.set(detail.connection.id, detail))

async function identityOf (connection) {
  while (!identified.has(connection.id)) {
    await new Promise((resolve) => node.addEventListener('peer:identify', resolve, { once: true }))
  }
  return identified.get(connection.id)
}

async function call (address) {
  const connection = await node.dial(multiaddr(address))
  const told = await identityOf(connection)
  const said = {
    peer: connection.remotePeer.toString(),
    limited: connection.limits != null,
    // Not with ping(), which dials anew if it finds circuits only.
    ping: await echoed(connection, PING, 32),
    protocols: told.protocols,
    agent: told.agentVersion
  }
  if (told.protocols.includes(ECHO)) {
    said.echoed = await echoed(connection, ECHO, SIZE)
  }
  await connection.close()
  return said
}

if (role === 'call') {
  for (const address of addresses) {
    console.log(JSON.stringify(await call(address).catch((error) => ({ error: `${error}` }))))
  }
} else {
  while (node.getMultiaddrs().length === 0) {
    await new Promise((resolve) => node.addEventListener('self:peer:update', resolve, { once: true }))
  }
  console.log(node.getMultiaddrs()[0].toString())
  process.stdin.resume()
  await new Promise((resolve) => process.stdin.on('end', resolve))
}
await node.stop()
process.exit(0)
