/**
 * Plots as SVG text: horizontal bars, each with a label, a value and a spread. Colours are chosen to be read on white
 * and on black, and text follows the reader's scheme.
 */
const WIDTH = 720
const BAR = 20
const GAP = 12
const LEFT = 190
const RIGHT = 150
const TOP = 44
const FONT = '13px system-ui, sans-serif'
const OURS = '#1f883d'
const THEIRS = '#8c959f'

function escaped(text) {
  return String(text).replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;')
}

/**
 * bars: `{ label, value, text, min?, max?, ours? }`; `line`: a value that must not be passed, with its `label`. All in
 * one unit. `log`: for values of very different size.
 */
export function barPlot({ title, bars, line, log = false }) {
  const most = Math.max(...bars.map(({ value, max }) => max ?? value), line?.value ?? 0) || 1
  const least = Math.max(Math.min(...bars.map(({ value }) => value)) / 3, most / 1e5)
  const room = WIDTH - LEFT - RIGHT
  const share = (value) => (log ? Math.log(Math.max(value, least) / least) / Math.log(most / least) : value / most)
  const x = (value) => (LEFT + room * Math.max(0, share(value))).toFixed(1)
  const height = TOP + bars.length * (BAR + GAP) + 8
  const parts = bars.map(({ label, value, text, min, max, ours }, index) => {
    const y = TOP + index * (BAR + GAP)
    const middle = y + BAR / 2
    const width = Math.max(1, x(value) - LEFT).toFixed(1)
    const spread =
      min === undefined ? '' : `<line class="s" x1="${x(min)}" x2="${x(max)}" y1="${middle}" y2="${middle}"/>`
    const end = Number(x(max ?? value)) + 8
    return [
      `<text x="${LEFT - 8}" y="${middle + 4}" text-anchor="end">${escaped(label)}</text>`,
      `<rect x="${LEFT}" y="${y}" width="${width}" height="${BAR}" fill="${ours === false ? THEIRS : OURS}"/>`,
      spread,
      `<text x="${end.toFixed(1)}" y="${middle + 4}">${escaped(text)}</text>`,
    ].join('')
  })
  const mark = line
    ? `<line class="m" x1="${x(line.value)}" x2="${x(line.value)}" y1="${TOP - 8}" y2="${height - 8}"/>` +
      `<text x="${x(line.value)}" y="${TOP - 12}" text-anchor="middle">${escaped(line.label)}</text>`
    : ''
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH}" height="${height}" viewBox="0 0 ${WIDTH} ${height}" role="img">
<title>${escaped(title)}</title>
<style>text{font:${FONT};fill:#1f2328}.t{font-weight:600}.s{stroke:#1f2328;stroke-width:1.5}.m{stroke:#cf222e;stroke-dasharray:4 3}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.s{stroke:#e6edf3}}</style>
<text class="t" x="0" y="16">${escaped(title)}</text>
${mark}
${parts.join('\n')}
</svg>
`
}
