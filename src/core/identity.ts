/**
 * Which files are preserved already. The same open file must be known again, through whichever descriptor it comes:
 * the key of a file finds the few that it may be in constant time, and an order among those the one that it is in
 * logarithmic time. No I/O here: key and order are given.
 */

/** What the orchestrator needs to know of files. */
export interface FileAccess<F> {
  /** Another reference to the same open file, owned by whoever asked. */
  duplicate(file: F): F
  close(file: F): void
  /** The same for every reference to an open file, and the same for few others: device and inode. */
  key(file: F): string
  /**
   * Less than, equal to or greater than 0: a total order of the open files that have the same key. Undefined when they
   * are two, and no order is known: then every file of the key is looked at.
   */
  compare(a: F, b: F): number | undefined
}

interface Node<F, V> {
  file: F
  value: V
  /** A random heap order keeps the tree balanced, whatever the order of insertion. */
  readonly priority: number
  left: Node<F, V> | undefined
  right: Node<F, V> | undefined
}

/** Files by identity, with a value each: a treap for each key. */
export class FileIdentities<F, V> {
  readonly #files: Pick<FileAccess<F>, 'key' | 'compare'>
  readonly #roots = new Map<string, Node<F, V>>()
  #seed = 1
  #size = 0

  constructor(files: Pick<FileAccess<F>, 'key' | 'compare'>) {
    this.#files = files
  }

  get size(): number {
    return this.#size
  }

  get(file: F): V | undefined {
    return this.#find(this.#roots.get(this.#files.key(file)), file)?.value
  }

  /** The file must not be there. The same reference, or another to the same open file, deletes it. */
  add(file: F, value: V): void {
    const key = this.#files.key(file)
    const node = { file, value, priority: this.#random(), left: undefined, right: undefined }
    this.#roots.set(key, this.#insert(this.#roots.get(key), node))
    this.#size += 1
  }

  delete(file: F): void {
    const key = this.#files.key(file)
    const root = this.#remove(this.#roots.get(key), file)
    if (root) this.#roots.set(key, root)
    else this.#roots.delete(key)
  }

  #find(root: Node<F, V> | undefined, file: F): Node<F, V> | undefined {
    let node = root
    while (node) {
      const order = this.#files.compare(file, node.file)
      if (order === 0) return node
      if (order === undefined) return this.#find(node.left, file) ?? this.#find(node.right, file)
      node = order < 0 ? node.left : node.right
    }
    return undefined
  }

  #insert(root: Node<F, V> | undefined, node: Node<F, V>): Node<F, V> {
    if (!root) return node
    if ((this.#files.compare(node.file, root.file) ?? 1) < 0) {
      root.left = this.#insert(root.left, node)
      return root.left.priority > root.priority ? rotateRight(root, root.left) : root
    }
    root.right = this.#insert(root.right, node)
    return root.right.priority > root.priority ? rotateLeft(root, root.right) : root
  }

  #remove(root: Node<F, V> | undefined, file: F): Node<F, V> | undefined {
    if (!root) return undefined
    const order = this.#files.compare(file, root.file)
    if (order === 0) {
      this.#size -= 1
      return join(root.left, root.right)
    }
    const before = this.#size
    if (order === undefined || order < 0) root.left = this.#remove(root.left, file)
    if (order === undefined ? this.#size === before : order > 0) root.right = this.#remove(root.right, file)
    return root
  }

  /** xorshift32: cheap, and nobody gains from guessing it, since compare is not in anybody's hand. */
  #random(): number {
    this.#seed ^= this.#seed << 13
    this.#seed ^= this.#seed >>> 17
    this.#seed ^= this.#seed << 5
    return this.#seed >>> 0
  }
}

function rotateRight<F, V>(root: Node<F, V>, left: Node<F, V>): Node<F, V> {
  root.left = left.right
  left.right = root
  return left
}

function rotateLeft<F, V>(root: Node<F, V>, right: Node<F, V>): Node<F, V> {
  root.right = right.left
  right.left = root
  return right
}

/** All of `left` comes before all of `right`. */
function join<F, V>(left: Node<F, V> | undefined, right: Node<F, V> | undefined): Node<F, V> | undefined {
  if (!left) return right
  if (!right) return left
  if (left.priority > right.priority) {
    left.right = join(left.right, right)
    return left
  }
  right.left = join(left, right.left)
  return right
}
