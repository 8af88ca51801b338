// Reads a CAR with the JavaScript implementations of IPFS: what its blocks are, and the files of
// the folders whose CIDs are named. Answers with one line of JSON.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { CarReader } from '@ipld/car'
import { exporter, recursive } from 'ipfs-unixfs-exporter'

const [file, ...folders] = process.argv.slice(2)
const car = await CarReader.fromBytes(await readFile(file))
const blockstore = {
  async get (cid) {
    const block = await car.get(cid)
    if (block == null) throw new Error(`${cid} is not in the CAR`)
    return block.bytes
  }
}
const answer = { roots: (await car.getRoots()).map(String), blocks: 0, folders: {} }
for await (const _ of car.blocks()) answer.blocks++
for (const folder of folders) {
  const files = answer.folders[folder] = {}
  for await (const entry of recursive(folder, blockstore)) {
    if (entry.type === 'directory') continue
    const hash = createHash('sha256')
    for await (const chunk of (await exporter(entry.cid, blockstore)).content()) hash.update(chunk)
    files[entry.path.slice(folder.length + 1)] = hash.digest('hex')
  }
}
console.log(JSON.stringify(answer))
