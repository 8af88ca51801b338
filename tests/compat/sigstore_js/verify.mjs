// Verifies what each line of standard input holds, {"bundle", "keys": {hint: PEM}}, as sigstore's own
// clients do, but without their transparency log and time stamps: a bundle by a key of one's own has
// neither. Answers each with a line {"error"}, which is null where the bundle is accepted.
import { createInterface } from 'node:readline'
import { createPublicKey } from 'node:crypto'
import { bundleFromJSON } from '@sigstore/bundle'
import { toSignedEntity, toTrustMaterial, Verifier } from '@sigstore/verify'

const nobody = { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] }
const options = { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0 }

function problem ({ bundle, keys }) {
  const find = hint => {
    if (keys[hint] === undefined) throw new Error(`no key ${hint}`)
    return { publicKey: createPublicKey(keys[hint]), validFor: () => true }
  }
  try {
    const entity = toSignedEntity(bundleFromJSON(bundle))
    new Verifier(toTrustMaterial(nobody, find), options).verify(entity)
    return null
  } catch (error) {
    return `${error.name}: ${error.message}`
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify({ error: problem(JSON.parse(line)) }))
}
