// Reads from an IPFS gateway with @helia/verified-fetch, which checks every block against its CID.
// Takes the gateway's URL and a JSON list of [ipfs URL, Range or null]; answers with one line of
// JSON: for each the status and the SHA-256 of the bytes, or why it failed.
import { createHash } from 'node:crypto'
import { withHTTP } from '@helia/http'
import { createVerifiedFetch } from '@helia/verified-fetch'
import { blake3 } from '@noble/hashes/blake3.js'
import { createHeliaLight } from 'helia'
import { from } from 'multiformats/hashes/hasher'

const [gateway, wanted] = process.argv.slice(2)
const hasher = from({ name: 'blake3', code: 0x1e, encode: (data) => blake3(data) })
// Nobody but this gateway is asked. It is the last resort, to which helia only comes from a router
// that knows nobody: without one it would wait for ever.
const light = createHeliaLight({ hashers: [hasher] })
light.addRouter({ name: 'nobody', async * findProviders () {} })
const helia = await withHTTP(light, {
  delegatedRouters: [],
  recursiveGateways: [gateway],
  allowInsecure: true,
  allowLocal: true
}).start()
const verifiedFetch = await createVerifiedFetch(helia)
const answers = []
for (const [url, range] of JSON.parse(wanted)) {
  try {
    const response = await verifiedFetch(url, {
      headers: range == null ? {} : { range },
      signal: AbortSignal.timeout(30000)
    })
    const bytes = new Uint8Array(await response.arrayBuffer())
    const sha256 = createHash('sha256').update(bytes).digest('hex')
    answers.push({ status: response.status, size: bytes.length, sha256 })
  } catch (error) {
    answers.push({ error: String(error) })
  }
}
console.log(JSON.stringify(answers))
await verifiedFetch.stop()
await helia.stop()
