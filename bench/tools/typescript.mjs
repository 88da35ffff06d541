/**
 * Lets this process import the TypeScript of test/ as it is, where its JavaScript would be: for what tests and
 * benchmark share. What it imports of src is transpiled as well; types are not checked.
 */
import { readFileSync } from 'node:fs'
import { register } from 'node:module'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'

const COMPILER = { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ES2022 }

/** A file that is not there as .js is there as .ts. */
export async function resolve(specifier, context, next) {
  try {
    return await next(specifier, context)
  } catch (error) {
    if (error.code !== 'ERR_MODULE_NOT_FOUND' || !specifier.endsWith('.js')) throw error
    return next(specifier.replace(/\.js$/, '.ts'), context)
  }
}

export async function load(url, context, next) {
  if (!url.endsWith('.ts')) return next(url, context)
  const { outputText } = ts.transpileModule(readFileSync(fileURLToPath(url), 'utf8'), { compilerOptions: COMPILER })
  return { format: 'module', source: outputText, shortCircuit: true }
}

/** To be called once, before the import. */
export function allowTypeScript() {
  register(import.meta.url)
}
