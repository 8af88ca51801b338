// Imports what each line of standard input describes, with the unixfs-v1-2025 profile, and answers
// each with a line {"cid", "dagSize"}. The bytes are those that tests/vectors describes, made anew.
// With the argument --mend, numbers from 2^31 on are written as protobuf says: protons-runtime 7.1.2
// takes the low half of a number for a signed one, and writes zeros for sizes of 2 to 4 GiB.
import { createInterface } from 'node:readline'
import { BlackHoleBlockstore } from 'blockstore-core/black-hole'
import { importer } from 'ipfs-unixfs-importer'

if (process.argv.includes('--mend')) {
  const { LongBits } = await import('./node_modules/protons-runtime/dist/src/utils/longbits.js')
  const fromNumber = LongBits.fromNumber
  LongBits.fromNumber = function (value) {
    const bits = fromNumber.call(this, value)
    bits.lo >>>= 0
    return bits
  }
}

const MIB = 1 << 20
const base = Uint8Array.from({ length: MIB }, (_, i) => (i * 31 + (i >> 8)) & 255)

function * content (size) {
  for (let index = 0, left = size; left > 0; index++, left -= MIB) {
    const block = base.slice(0, Math.min(left, MIB))
    const number = new Uint8Array(8)
    new DataView(number.buffer).setBigUint64(0, BigInt(index), true)
    block.set(number.subarray(0, block.length))
    yield block
  }
}

function candidates (job) {
  if (job.size !== undefined) {
    return [{ content: content(job.size) }]
  }
  const utf8 = new TextEncoder()
  return job.paths.map(path => ({ path, content: utf8.encode(path) }))
}

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line)
  const options = { profile: 'unixfs-v1-2025', wrapWithDirectory: job.paths !== undefined }
  let last
  for await (const entry of importer(candidates(job), new BlackHoleBlockstore(), options)) {
    last = entry
  }
  console.log(JSON.stringify({ cid: last.cid.toString(), dagSize: Number(last.size) }))
}
