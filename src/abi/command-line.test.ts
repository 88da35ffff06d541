import { describe, expect, test } from 'vitest'
import { commandLineWords, reusedCommandLine, switchOf } from './command-line.js'

describe('a kernel command line', () => {
  test('has words, some in double quotes', () => {
    expect(commandLineWords('  a=1 b="two words"  "c d" e="open f')).toEqual([
      'a=1',
      'b="two words"',
      '"c d"',
      'e="open f',
    ])
    expect(commandLineWords('')).toEqual([])
  })

  test('switches something on or off, the last word deciding', () => {
    for (const value of ['on', '1', 'y', 'Y', 't', '"on"'])
      expect(switchOf(`a liveupdate=${value}`, 'liveupdate')).toBe(true)
    for (const value of ['off', '0', 'n', '', 'maybe'])
      expect(switchOf(`liveupdate=${value} a`, 'liveupdate')).toBe(false)
    expect(switchOf('kho=on kho=off', 'kho')).toBe(false)
    expect(switchOf('xkho=on khox=on', 'kho')).toBeUndefined()
    expect(switchOf('quiet -- kho=on', 'kho')).toBeUndefined()
  })

  test('is used again without what the boot loader said of its kernel', () => {
    const running = 'BOOT_IMAGE=/vmlinuz-7.3 root=/dev/vda1 x="BOOT_IMAGE=y z"'
    expect(reusedCommandLine(running)).toBe('root=/dev/vda1 x="BOOT_IMAGE=y z"')
    expect(reusedCommandLine(running, 'debug "a b"')).toBe('root=/dev/vda1 x="BOOT_IMAGE=y z" debug "a b"')
  })
})
