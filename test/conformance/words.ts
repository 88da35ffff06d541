/**
 * The words of a line: apart by spaces, with text in quotes ("a\x00b", "n"*63), which is bytes. As the driver has it.
 */

export interface Word {
  /** For what is no text in quotes. */
  readonly text: string
  readonly bytes: Uint8Array
}

const PART = /"((?:\\x[0-9a-f]{2}|[^"\\])*)"(?:\*(\d+))?|[^\s"]+/y

export function words(line: string): Word[] {
  const found: Word[] = []
  for (let at = 0; at < line.length; ) {
    if (line[at] === ' ') {
      at += 1
      continue
    }
    const parts: Buffer[] = []
    while (at < line.length && line[at] !== ' ') {
      PART.lastIndex = at
      const match = PART.exec(line)
      if (!match) throw new Error(`"${line}" is no line of a script, from its character ${at} on`)
      const [all, quoted, times = '1'] = match
      parts.push(quoted === undefined ? Buffer.from(all) : repeated(unquote(quoted), Number(times)))
      at += all.length
    }
    const bytes = Buffer.concat(parts)
    found.push({ text: bytes.toString('latin1'), bytes })
  }
  return found
}

function unquote(text: string): Buffer {
  return Buffer.from(
    text.replace(/\\x([0-9a-f]{2})/g, (_, digits) => String.fromCharCode(Number.parseInt(digits, 16))),
    'latin1',
  )
}

function repeated(bytes: Buffer, times: number): Buffer {
  return Buffer.concat(Array.from({ length: times }, () => bytes))
}
