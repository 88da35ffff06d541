/**
 * The values of a map as pages. The array behind them is made once between two changes, so that all pages together cost
 * what they hold, however small they are. What changes between two pages may move by some places: whoever needs all of
 * it as it was at one moment looks while it does not change (a frozen session).
 */
import { checkNumber } from './limits.js'

export interface PageRequest {
  offset?: number
  limit?: number
}

export class Listing<T> {
  readonly #values: ReadonlyMap<unknown, T>
  readonly #max: number
  #array: readonly T[] | undefined

  /** `max`: values of one page, unless fewer are asked for. */
  constructor(values: ReadonlyMap<unknown, T>, max: number) {
    this.#values = values
    this.#max = max
  }

  /** To be called with every change of the map. */
  changed(): void {
    this.#array = undefined
  }

  /**
   * At most `limit` values from `offset` on: none when that is behind the end. LUO_INVALID_PARAMETER for a bad number.
   */
  page({ offset = 0, limit = this.#max }: PageRequest = {}): T[] {
    checkNumber('offset', offset, 0, Number.MAX_SAFE_INTEGER)
    checkNumber('limit', limit, 1, this.#max)
    this.#array ??= [...this.#values.values()]
    return this.#array.slice(offset, offset + limit)
  }
}
