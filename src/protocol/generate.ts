/** TypeScript types for an interface, as text: `types.ts` is what this makes of `interface.ts`. */
import type { Interface, StructNode, TypeNode } from './idl.js'

export function generateTypes(definition: Interface): string {
  const parts = [
    '/** Made from interface.ts by `npm run generate`; a test compares. Optional members are absent, never null. */',
  ]
  for (const [name, type] of definition.types) {
    parts.push(
      type.kind === 'struct'
        ? `export interface ${name} ${struct(type, '')}`
        : `export type ${name} = ${text(type, '')}`,
    )
  }
  const methods = [...definition.methods].map(
    ([name, { input, output }]) => `  ${name}: { input: ${struct(input, '  ')}; output: ${struct(output, '  ')} }`,
  )
  parts.push(`export interface Methods {\n${methods.join('\n')}\n}`)
  return `${parts.join('\n\n')}\n`
}

function struct({ fields }: StructNode, indent: string): string {
  if (fields.size === 0) return 'Record<string, never>'
  const lines = [...fields].map(([name, type]) => {
    const optional = type.kind === 'nullable'
    return `${indent}  ${name}${optional ? '?' : ''}: ${text(type, `${indent}  `)}\n`
  })
  return `{\n${lines.join('')}${indent}}`
}

function text(type: TypeNode, indent: string): string {
  switch (type.kind) {
    case 'bool':
      return 'boolean'
    case 'int':
    case 'float':
      return 'number'
    case 'string':
      return 'string'
    case 'object':
      return 'unknown'
    case 'name':
      return type.name
    case 'enum':
      return type.members.map((member) => `'${member}'`).join(' | ')
    case 'array': {
      const of = text(type.of, indent)
      return type.of.kind === 'enum' || type.of.kind === 'nullable' ? `(${of})[]` : `${of}[]`
    }
    case 'map':
      return `Record<string, ${text(type.of, indent)}>`
    case 'nullable':
      return text(type.of, indent)
    case 'struct':
      return struct(type, indent)
  }
}
