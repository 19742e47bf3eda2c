// Arrays in a safetensors file, the small part of the format that an OOD detector needs (see blastlens.integrity).

const TYPES = { F32: Float32Array, F64: Float64Array };

/** @returns {Object<string, {shape: number[], values: Float32Array | Float64Array}>} the arrays of a file, by name */
export function readTensors(bytes) {
  const length = Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const body = bytes.slice(8 + length).buffer; // a copy, so that numbers are aligned
  delete header.__metadata__;
  return Object.fromEntries(
    Object.entries(header).map(([name, { dtype, shape, data_offsets: [from, to] }]) => {
      const values = new TYPES[dtype](body.slice(from, to));
      return [name, { shape, values }];
    }),
  );
}
